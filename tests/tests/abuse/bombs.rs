//! Guests that want more than their share: memory, tables, instances, handles, lists and texts.

use std::fmt::Write;

use warren::job::Code;
use warren_tests::abuse::{Bed, Core, Ending, case, infer};

const MEMORY: Ending = Ending::Fails(Code::MemoryLimit);
const TABLE: Ending = Ending::Fails(Code::TableLimit);
const HANDLE: Ending = Ending::Fails(Code::HandleLimit);
const HOSTCALL: Ending = Ending::Fails(Code::HostcallLimit);
const STALLED: Ending = Ending::Fails(Code::Stalled);
const LIMIT: &[&str] = &["limits.stall_ms is 400"];

/// Further modules and what of them is instantiated.
fn beside(text: impl Into<String>) -> Core {
    Core { before: text.into(), ..Core::default() }
}

/// `core` with so much memory, pages.
fn memory(pages: &str, core: Core) -> Core {
    Core { memory: pages.into(), ..core }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_without_end_comes_to_an_end() {
    let bed = Bed::open(|_| {}).await;
    let grow = |then: &str| {
        infer(format!(
            "(loop $l (local.set $a (memory.grow (i32.const 16)))
               (if (i32.ne (local.get $a) (i32.const -1))
                 (then (memory.fill (i32.shl (local.get $a) (i32.const 16)) (i32.const 1) (i32.const 1048576)) (br $l)))
               {then}) (call $ok)"
        ))
    };
    bed.all(vec![
        case("memory.grow until it fails, then traps", MEMORY, &["limits.memory_mib is 64"], &grow("(unreachable)")),
        case("memory.grow over and over, whatever it says", STALLED, LIMIT, &grow("(br $l)")),
        case("all the memory that it may have, written", Ending::Serves, &[], &grow("")),
        case(
            "memory.grow by 4 GiB",
            MEMORY,
            &["limits.memory_mib is 64"],
            &infer("(if (i32.eq (memory.grow (i32.const 65535)) (i32.const -1)) (then (unreachable))) (call $ok)"),
        ),
        case(
            "starts with 65 MiB",
            Ending::Refused,
            &["MEMORY_LIMIT", "limits.memory_mib is 64"],
            &memory("1040", Core::default()),
        ),
        case("starts with 4 GiB", Ending::Refused, &["memory", "4294967296"], &memory("65536", Core::default())),
        case(
            "20 MiB of data",
            Ending::Serves,
            &[],
            &beside(format!(
                "(core module $M (memory 321) (data (i32.const 0) \"{}\")) (core instance (instantiate $M))",
                "x".repeat(20 << 20)
            )),
        ),
        case(
            "4 memories of 20 MiB each",
            Ending::Refused,
            &["MEMORY_LIMIT", "limits.memory_mib is 64"],
            &memory(
                "320",
                beside("(core module $M (memory 320))".to_owned() + &"(core instance (instantiate $M))".repeat(3)),
            ),
        ),
        case(
            "5 memories",
            Ending::Refused,
            &["memories"],
            &beside("(core module $M (memory 1))".to_owned() + &"(core instance (instantiate $M))".repeat(4)),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_operations_are_interrupted() {
    let bed = Bed::open(|_| {}).await;
    let over_and_over = |what: &str| memory("960", infer(format!("(loop $l {what} (br $l)) (call $ok)")));
    let table = "(table $t 18000 funcref)";
    bed.all(vec![
        case(
            "memory.fill of 59 MiB over and over",
            STALLED,
            LIMIT,
            &over_and_over("(memory.fill (i32.const 65536) (i32.const 1) (i32.const 62000000))"),
        ),
        case(
            "memory.copy of 30 MiB over and over",
            STALLED,
            LIMIT,
            &over_and_over("(memory.copy (i32.const 31000001) (i32.const 65536) (i32.const 31000000))"),
        ),
        case(
            "memory.init of 2 MiB over and over",
            STALLED,
            LIMIT,
            &over_and_over("(memory.init $d (i32.const 65536) (i32.const 0) (i32.const 2097152))")
                .main(format!("(data $d \"{}\")", "x".repeat(2 << 20))),
        ),
        case(
            "table.fill of 18,000 elements over and over",
            STALLED,
            LIMIT,
            &over_and_over("(table.fill $t (i32.const 0) (ref.null func) (i32.const 18000))").main(table),
        ),
        case(
            "table.copy of 9,000 elements over and over",
            STALLED,
            LIMIT,
            &over_and_over("(table.copy (i32.const 9000) (i32.const 0) (i32.const 9000))").main(table),
        ),
        case(
            "table.init of 9,000 elements over and over",
            STALLED,
            LIMIT,
            &over_and_over("(table.init $e (i32.const 0) (i32.const 0) (i32.const 9000))")
                .main(format!("{table} (elem $e func {}) (func $f)", "$f ".repeat(9000))),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_and_instances_are_counted() {
    let bed = Bed::open(|_| {}).await;
    let grow = "(loop $l (br_if $l (i32.ne (table.grow (ref.null func) (i32.const 1000)) (i32.const -1)))) (unreachable)";
    let modules = |count: u32| {
        (0..count).fold(String::new(), |mut text, n| {
            let _ = write!(text, "(core module (func (export \"f{n}\") (result i32) (i32.const {n})))");
            text
        })
    };
    let sizes = |name: &str, table: &str, says: &[&'static str]| {
        case(name, Ending::Refused, says, &Core::default().main(format!("(table {table} funcref)")))
    };
    bed.all(vec![
        case(
            "table.grow until it fails",
            TABLE,
            &["limits.table_elements is 20000"],
            &infer(grow).main("(table 1 funcref)"),
        ),
        sizes("a table of 20,001 elements", "20001", &["table", "20001"]),
        sizes("a table of 4,294,967,295 elements", "4294967295", &["table", "4294967295"]),
        case(
            "17 tables in one module",
            Ending::Refused,
            &["tables"],
            &Core::default().main("(table 1 funcref)".repeat(17)),
        ),
        case(
            "3 tables of 9,000 elements",
            Ending::Refused,
            &["TABLE_LIMIT", "limits.table_elements is 20000"],
            &beside(
                "(core module $M (table 9000 funcref))".to_owned()
                    + &"(core instance (instantiate $M))".repeat(3),
            ),
        ),
        case(
            "100 core instances",
            Ending::Refused,
            &["instances"],
            &beside("(core module $M)".to_owned() + &"(core instance (instantiate $M))".repeat(100)),
        ),
        case(
            "1,000 component instances with a core instance each",
            Ending::Refused,
            &["instances"],
            &beside(
                "(component $C (core module $M) (core instance (instantiate $M)))".to_owned()
                    + &"(instance (instantiate $C))".repeat(900),
            ),
        ),
        case("5,000 core modules", Ending::Refused, &["modules", "limit of 1000"], &beside(modules(5000))),
        case("900 core modules that nobody instantiates", Ending::Serves, &[], &beside(modules(900))),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handles_are_counted() {
    let bed = Bed::open(|_| {}).await;
    let without_end = |what: &str| infer(format!("(loop $l {what} (br $l)) (call $ok)"));
    let own = "(type $r (resource (rep i32))) (core func $new (canon resource.new $r))
        (core instance $resource (export \"new\" (func $new)))";
    let with = "(with \"resource\" (instance $resource))";
    let new = "(import \"resource\" \"new\" (func $new (param i32) (result i32)))";
    // A component that makes as many handles as it is told, twenty times over.
    let hoards = format!(
        "(component $Hoard {own}
           (core module $M {new}
             (func (export \"fill\") (param $n i32)
               (loop $l (drop (call $new (i32.const 1)))
                 (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))
           (core instance $m (instantiate $M {with}))
           (func $fill (param \"n\" u32) (canon lift (core func $m \"fill\")))
           (export \"fill\" (func $fill)))"
    );
    let mut many = Core { beside: hoards, infer: String::new(), ..Core::default() };
    let (mut fills, mut ports, mut exports) = (String::new(), String::new(), String::new());
    for n in 0..20 {
        let _ = write!(many.beside, "(instance $h{n} (instantiate $Hoard))");
        let _ = write!(fills, "(export \"f{n}\" (func $h{n} \"fill\"))");
        let _ = write!(ports, "(export \"f{n}\" (func (param \"n\" u32)))");
        let _ = write!(many.before, "(core func $fill{n} (canon lower (func $other \"f{n}\")))");
        let _ = write!(exports, "(export \"f{n}\" (func $fill{n}))");
        let _ = write!(many.main, "(import \"hoards\" \"f{n}\" (func $fill{n} (param i32)))");
        let _ = write!(many.infer, "(call $fill{n} (i32.const 9000))");
    }
    let _ = write!(many.beside, "(instance $beside {fills})");
    many.other = format!("(import \"other\" (instance $other {ports}))");
    let _ = write!(many.before, "(core instance $hoards {exports})");
    many.with = "(with \"hoards\" (instance $hoards))".into();
    many.infer.push_str("(call $ok)");
    bed.all(vec![
        case(
            "tensors that are never dropped",
            HANDLE,
            &["limits.handles is 100000"],
            &without_end(
                "(call $fill (i32.const 0) (i32.const 0) (i32.const 0) (f64.const 1) (i32.const 512))",
            ),
        ),
        case(
            "pollables that are never dropped",
            HANDLE,
            &["limits.handles is 100000"],
            &without_end("(drop (call $subscribe (i64.const 3600000000000)))"),
        ),
        case(
            "resources of its own that are never dropped",
            HANDLE,
            &["limits.handles is 100000"],
            &Core {
                before: own.into(),
                with: with.into(),
                ..without_end("(drop (call $new (i32.const 1)))").main(new)
            },
        ),
        case("9,000 handles in each of 20 components", HANDLE, &["limits.handles is 100000"], &many),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_texts_are_weighed_before_they_are_taken() {
    let bed = Bed::open(|_| {}).await;
    let big = |body: &str| memory("960", infer(format!("{body} (call $ok)")));
    // One output of byte strings: its shape and its elements lie where these say.
    let output = |shape: (u32, u32), elements: (u32, u32), fill: &str| {
        memory(
            "960",
            infer(format!(
                "{fill}
                 (i32.store (i32.const 260) (i32.const 1024)) (i32.store (i32.const 264) (i32.const 1))
                 (i32.store (i32.const 1024) (i32.const 1100)) (i32.store (i32.const 1028) (i32.const 1))
                 (i32.store (i32.const 1032) (i32.const 1))
                 (i32.store (i32.const 1036) (i32.const {})) (i32.store (i32.const 1040) (i32.const {}))
                 (i32.store (i32.const 1044) (i32.const {})) (i32.store (i32.const 1048) (i32.const {}))
                 (call $ok)",
                shape.0, shape.1, elements.0, elements.1
            )),
        )
        .main("(data (i32.const 1100) \"x\")")
    };
    let same = "(local.set $n (i32.const 65536))
        (loop $l (i32.store (local.get $n) (i32.const 4096)) (i32.store offset=4 (local.get $n) (i32.const 1048576))
          (local.set $n (i32.add (local.get $n) (i32.const 8)))
          (br_if $l (i32.lt_u (local.get $n) (i32.const 8454144))))";
    let entries = |count: u32| {
        memory(
            "960",
            infer(format!(
                "(i32.store (i32.const 128) (i32.const 65536)) (i32.store (i32.const 132) (i32.const {count})) (i32.const 128)"
            )),
        )
    };
    let report = |length: u32| {
        format!(
            "(drop (call $report (local.get $job) (i32.const 65536) (i32.const {length}) (i32.const 0) (f32.const 0)
               (i32.const 0) (i32.const 0) (i32.const 0)))"
        )
    };
    bed.all(vec![
        case("answers 2,000,000 entries", HOSTCALL, &["limits.hostcall_mib"], &entries(2_000_000)),
        case("answers 0 entries", Ending::Fails(Code::BadResult), &["0 entries", "batch of 1"], &entries(0)),
        case(
            "a list of 7,000,000 empty byte strings",
            HOSTCALL,
            &["limits.hostcall_mib"],
            &output((1100, 0), (65536, 7_000_000), ""),
        ),
        case(
            "a list of 1,000,000 byte strings that are one and the same MiB",
            HOSTCALL,
            &["limits.hostcall_mib is 16"],
            &output((1100, 0), (65536, 1_000_000), same),
        )
        .limits("hostcall_mib = 16"),
        case(
            "a shape of 2,000,000 dimensions",
            Ending::Fails(Code::BadResult),
            &["2000000 dimensions"],
            &output((65536, 2_000_000), (65536, 0), ""),
        ),
        case(
            "reports a stage of 8 MB, over and over",
            Ending::Fails(Code::TimeLimit),
            &["limits.wall_ms is 1200"],
            &big(&format!("(loop $l {} (br $l))", report(8_000_000))),
        ),
        case(
            "a constant of 1 MB, over and over",
            HOSTCALL,
            &["limits.hostcall_total_mib is 20"],
            &big("(i32.store (i32.const 1024) (i32.const 1000000))
                 (loop $l (call $constant (i32.const 7) (i32.const 1024) (i32.const 1) (i32.const 65536)
                     (i32.const 1000000) (i32.const 512))
                   (call $tensor-drop (i32.load (i32.const 516))) (br $l))"),
        )
        .limits("hostcall_total_mib = 20"),
        case(
            "dispatches one tensor 10,000,000 times in a list",
            HOSTCALL,
            &["limits.hostcall_mib"],
            &big("(call $fill (i32.const 0) (i32.const 0) (i32.const 0) (f64.const 1) (i32.const 512))
                 (local.set $n (i32.const 65536))
                 (loop $l (i32.store (local.get $n) (i32.load (i32.const 516)))
                   (local.set $n (i32.add (local.get $n) (i32.const 4)))
                   (br_if $l (i32.lt_u (local.get $n) (i32.const 40065536))))
                 (call $dispatch (i32.const 65536) (i32.const 10000000) (i32.const 512))"),
        ),
    ])
    .await;
}
