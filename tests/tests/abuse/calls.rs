//! Guests that never return, that nest too deeply, that wait, and that call where they must not.

use warren::job::Code;
use warren_tests::abuse::{Bed, Case, Core, Ending, case, infer};

const STALLED: Ending = Ending::Fails(Code::Stalled);
const STACK: Ending = Ending::Fails(Code::StackLimit);
const TRAPPED: Ending = Ending::Fails(Code::PluginTrapped);
const LIMIT: &[&str] = &["limits.stall_ms is 400"];
const DEEP: &[&str] = &["call stack exhausted"];
const HANDLE: Ending = Ending::Fails(Code::HandleLimit);
const HANDLES: &[&str] = &["limits.handles is 100000"];
const LEAVE: &[&str] = &["cannot leave component instance"];

/// A resource of the component's own, whose destructor is `$dtor` of a module with these fields.
fn resource(fields: &str) -> Core {
    Core {
        before: format!(
            "(core module $Own {fields})
             (core instance $own (instantiate $Own (with \"host\" (instance $host))))
             (type $r (resource (rep i32) (dtor (core func $own \"dtor\"))))
             (core func $new (canon resource.new $r))
             (core func $drop (canon resource.drop $r))
             (core instance $resource (export \"new\" (func $new)) (export \"drop\" (func $drop)))"
        ),
        with: "(with \"resource\" (instance $resource))".into(),
        main: "(import \"resource\" \"new\" (func $new (param i32) (result i32)))
               (import \"resource\" \"drop\" (func $drop (param i32)))"
            .into(),
        infer: "(call $drop (call $new (i32.const 7))) (call $ok)".into(),
        ..Core::default()
    }
}

/// `what` in every place where a guest's code runs: its text, and what functions of the module it needs.
fn everywhere(name: &str, what: &str, functions: &str, code: Code, says: &[&'static str]) -> Vec<Case> {
    let prepare = [says, &["prepare:", code.info().name]].concat();
    let ending = Ending::Fails(code);
    let rows: [(&str, Ending, &[&'static str], Core); 6] = [
        ("infer", ending, says, infer(format!("{what} (call $ok)")).main(functions)),
        (
            "prepare",
            Ending::Refused,
            &prepare,
            Core { prepare: format!("{what} (i32.const 64)"), ..Core::default() }.main(functions),
        ),
        (
            "the start function",
            Ending::Refused,
            &prepare,
            Core::default().main(format!("{functions} (func $start {what}) (start $start)")),
        ),
        (
            "realloc",
            ending,
            says,
            Core { libc: functions.into(), realloc: format!("{what} (i32.const 4096)"), ..Core::default() },
        ),
        ("post-return", ending, says, Core { post: what.into(), ..Core::default() }.main(functions)),
        (
            "a destructor",
            ending,
            says,
            resource(&format!("{functions} (func (export \"dtor\") (param i32) {what})")),
        ),
    ];
    rows.iter()
        .map(|(place, ending, says, core)| case(&format!("{name} in {place}"), *ending, says, core))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_end_is_stopped_wherever_it_runs() {
    let bed = Bed::open(|_| {}).await;
    let mut cases = everywhere("a loop", "(loop $l (br $l))", "", Code::Stalled, LIMIT);
    cases.extend(everywhere(
        "a recursion",
        "(call $down)",
        "(func $down (call $down))",
        Code::StackLimit,
        DEEP,
    ));
    cases.extend(everywhere(
        "a recursion through a table",
        "(call_indirect (type $void) (i32.const 0))",
        "(type $void (func)) (table 1 1 funcref) (elem (i32.const 0) func $down)
         (func $down (call_indirect (type $void) (i32.const 0)))",
        Code::StackLimit,
        DEEP,
    ));
    bed.all(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_that_ends_inside_the_host_ends_the_guest() {
    let bed = Bed::open(|_| {}).await;
    let down = |work: &str| {
        infer("(call $down (local.get $job) (i32.const 0)) (call $ok)").main(format!(
            "(data (i32.const 1024) \"\\1b[2Jdeep\") (data (i32.const 1040) \"\\04\\00\\00\\00\")
             (func $down (param $job i32) (param $n i32)
               {work}
               (call $down (local.get $job) (i32.add (local.get $n) (i32.const 1))))"
        ))
    };
    // Every so many calls something that needs stack of its own out there.
    let now_and_then =
        |work: &str| down(&format!("(if (i32.eqz (i32.and (local.get $n) (i32.const 127))) (then {work}))"));
    bed.all(vec![
        case(
            "a stack that ends at a host call",
            STACK,
            DEEP,
            &down("(drop (call $attempt (local.get $job)))"),
        ),
        case(
            "a stack that ends at a host call with text",
            STACK,
            DEEP,
            &now_and_then(
                "(call $log (i32.const 4) (i32.const 1024) (i32.const 8) (i32.const 1024) (i32.const 8))",
            ),
        ),
        case(
            "a stack that ends at tensor work",
            STACK,
            DEEP,
            &now_and_then(
                "(call $fill (i32.const 0) (i32.const 1040) (i32.const 1) (f64.const 1) (i32.const 512))
                 (call $read (i32.load (i32.const 516)) (i32.const 544))",
            ),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_and_what_chatters_is_stopped() {
    let bed = Bed::open(|config| config.limits.handles = 400_000).await;
    let hour = "(i64.const 3600000000000)";
    // So many of them in a list at 65536, each anew or all the same.
    let list = |count: u32, each: &str| {
        format!(
            "(drop (memory.grow (i32.const 64)))
             (local.set $a (call $subscribe {hour}))
             (loop $more
               (i32.store (i32.add (i32.const 65536) (i32.shl (local.get $n) (i32.const 2))) {each})
               (local.set $n (i32.add (local.get $n) (i32.const 1)))
               (br_if $more (i32.lt_u (local.get $n) (i32.const {count}))))
             (call $poll (i32.const 65536) (local.get $n) (i32.const 512)) (call $ok)"
        )
    };
    let text = "(data (i32.const 1024) \"\\1b[2J\\1b]0;pwned\\07\\0d\\0aERROR warren: on fire\")";
    let log = "(call $log (i32.const 4) (i32.const 1024) (i32.const 30) (i32.const 1024) (i32.const 36))";
    let report = "(drop (call $report (local.get $job) (i32.const 1024) (i32.const 30) (i32.const 1) (f32.const nan:0x12345)
        (i32.const 1) (i32.const 1024) (i32.const 36)))";
    bed.all(vec![
        case("sleeps on a pollable", STALLED, LIMIT, &infer(format!("(call $block (call $subscribe {hour})) (call $ok)"))),
        case("polls one that comes in an hour", STALLED, LIMIT, &infer(list(1, "(local.get $a)"))),
        case("polls 100,000 that come in an hour", STALLED, LIMIT, &infer(list(100_000, &format!("(call $subscribe {hour})"))))
            .limits("handles = 400000"),
        case("polls 100,000 with too few handles", HANDLE, HANDLES, &infer(list(100_000, &format!("(call $subscribe {hour})")))),
        case("polls one 1,000,000 times in a list", HANDLE, HANDLES, &infer(list(1_000_000, "(local.get $a)"))),
        case("polls nothing", TRAPPED, &["empty"], &infer("(call $poll (i32.const 65536) (i32.const 0) (i32.const 512)) (call $ok)")),
        case("logs without end, with escapes", STALLED, LIMIT, &infer(format!("(loop $l {log} (br $l)) (call $ok)")).main(text)),
        case(
            "reports without end, with escapes",
            Ending::Fails(Code::TimeLimit),
            &["limits.wall_ms is 1200"],
            &infer(format!("(loop $l {report} (br $l)) (call $ok)")).main(text),
        )
        .limits("events = 100000000\nevents_per_second = 100000000"),
        case(
            "fails with a text of 32 MiB",
            Ending::Fails(Code::PluginFailed),
            &["xxxxxxxx"],
            &infer(
                "(drop (memory.grow (i32.const 512)))
                 (memory.fill (i32.const 65536) (i32.const 120) (i32.const 33554432))
                 (i32.store (i32.const 256) (i32.const 1)) (i32.store (i32.const 260) (i32.const 2))
                 (i32.store (i32.const 264) (i32.const 65536)) (i32.store (i32.const 268) (i32.const 33554432))
                 (call $ok)",
            ),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_calls_where_nothing_may_be_called() {
    let bed = Bed::open(|_| {}).await;
    // `realloc` cannot import what needs it: it calls through a table, once it is told to.
    let reentrant = |body: &str| {
        Core {
        libc: "(type $void (func)) (table (export \"calls\") 1 1 funcref)
               (global $armed (export \"armed\") (mut i32) (i32.const 0))"
            .into(),
        realloc: format!(
            "(if (global.get $armed) (then (call_indirect (type $void) (i32.const 0)))) {}",
            Core::default().realloc
        ),
        main: "(import \"libc\" \"calls\" (table 1 1 funcref)) (import \"libc\" \"armed\" (global $armed (mut i32)))
               (elem (i32.const 0) func $back)
               (func $back (drop (call $attempt (i32.const 1))))
               (func $arm (global.set $armed (i32.const 1)))"
            .into(),
        infer: body.into(),
        ..Core::default()
    }
    };
    let start = |what: &str| {
        Core::default().main(format!("(data (i32.const 1024) \"hello\") (func $start {what}) (start $start)"))
    };
    bed.all(vec![
        case(
            "calls the host from realloc, for an argument",
            TRAPPED,
            LEAVE,
            &Core {
                main: format!("{} (start $arm)", reentrant("").main),
                infer: "(call $ok)".into(),
                ..reentrant("")
            },
        ),
        case(
            "calls the host from realloc, for a host call's answer",
            TRAPPED,
            LEAVE,
            &reentrant("(call $arm) (call $id (local.get $job) (i32.const 512)) (call $ok)"),
        ),
        case(
            "calls the host from post-return",
            TRAPPED,
            LEAVE,
            &Core { post: "(drop (call $attempt (i32.const 1)))".into(), ..Core::default() },
        ),
        case(
            "drops a handle in post-return",
            TRAPPED,
            LEAVE,
            &Core { post: "(call $job-drop (i32.const 1))".into(), ..Core::default() },
        ),
        case(
            "calls the host from the start function",
            Ending::Serves,
            &[],
            &start(
                "(call $log (i32.const 2) (i32.const 1024) (i32.const 5) (i32.const 1024) (i32.const 5))
                 (call $tensor-drop (block (result i32)
                   (call $fill (i32.const 0) (i32.const 0) (i32.const 0) (f64.const 1) (i32.const 512))
                   (i32.load (i32.const 516))))",
            ),
        ),
        case(
            "asks for its job in the start function",
            Ending::Refused,
            &["prepare: PLUGIN_TRAPPED", "handle"],
            &start("(drop (call $attempt (i32.const 1)))"),
        ),
        case(
            "calls the host from a destructor",
            Ending::Serves,
            &[],
            &resource(
                "(import \"host\" \"subscribe\" (func $subscribe (param i64) (result i32)))
                 (import \"host\" \"pollable-drop\" (func $drop (param i32)))
                 (func (export \"dtor\") (param i32) (call $drop (call $subscribe (i64.const 1))))",
            ),
        ),
    ])
    .await;
}
