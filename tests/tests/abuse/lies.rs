//! Guests that lie: lengths, places, numbers, texts and handles that are not what they say.

use warren::job::Code;
use warren_tests::abuse::{Bed, Core, Ending, case, infer};

const TRAPPED: Ending = Ending::Fails(Code::PluginTrapped);

/// `infer` that answers one entry which `stores` has written at 256.
fn answers(stores: &str) -> Core {
    infer(format!("{stores} (call $ok)"))
}

/// One output of the name and value that lie at 1024.
fn output(stores: &str) -> Core {
    answers(&format!(
        "(i32.store (i32.const 260) (i32.const 1024)) (i32.store (i32.const 264) (i32.const 1))
         (i32.store (i32.const 1024) (i32.const 1100)) (i32.store (i32.const 1028) (i32.const 1)) {stores}"
    ))
    .main("(data (i32.const 1100) \"xyz\")")
}

/// One parameter whose value is of this case, with these bits.
fn parameter(which: u32, low: u64) -> Core {
    answers(&format!(
        "(i32.store (i32.const 268) (i32.const 1024)) (i32.store (i32.const 272) (i32.const 1))
         (i32.store (i32.const 1024) (i32.const 1100)) (i32.store (i32.const 1028) (i32.const 1))
         (i32.store8 (i32.const 1032) (i32.const {which})) (i64.store (i32.const 1040) (i64.const {low}))"
    ))
    .main("(data (i32.const 1100) \"p\")")
}

/// A call of `fill` with these arguments.
fn fill(kind: &str, shape: &str, length: &str, answer: &str) -> Core {
    infer(format!(
        "(call $fill (i32.const {kind}) (i32.const {shape}) (i32.const {length}) (f64.const 1) (i32.const {answer}))
         (call $ok)"
    ))
}

/// A log line whose text lies there.
fn log(level: &str, text: &str, length: &str, data: &str) -> Core {
    infer(format!(
        "(call $log (i32.const {level}) (i32.const 0) (i32.const 0) (i32.const {text}) (i32.const {length})) (call $ok)"
    ))
    .main(format!("(data (i32.const 1024) \"{data}\")"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lie_about_a_place_or_a_length_is_a_trap() {
    let bed = Bed::open(|_| {}).await;
    const OUT: &[&str] = &["out of bounds"];
    const CROOKED: &[&str] = &["not aligned"];
    let list = |place: &str, length: &str| {
        infer(format!(
            "(i32.store (i32.const 128) (i32.const {place})) (i32.store (i32.const 132) (i32.const {length})) (i32.const 128)"
        ))
    };
    let at = |place: &str| infer(format!("(i32.const {place})"));
    let elements = |place: &str, length: &str| {
        output(&format!(
            "(i32.store (i32.const 1032) (i32.const 1)) (i32.store (i32.const 1044) (i32.const {place}))
             (i32.store (i32.const 1048) (i32.const {length}))"
        ))
    };
    let realloc = |answer: &str| Core { realloc: format!("(i32.const {answer})"), ..Core::default() };
    bed.all(vec![
        case("a result beyond memory", TRAPPED, &["pointer out of bounds"], &at("131072")),
        case("a result whose end is beyond memory", TRAPPED, &["out of bounds"], &at("131068")),
        case("a result at the end of the address space", TRAPPED, OUT, &at("-8")),
        case("a result that is not aligned", TRAPPED, CROOKED, &at("130")),
        case("a list of 2,147,483,648 entries", TRAPPED, OUT, &list("256", "0x80000000")),
        case("a list whose end wraps around", TRAPPED, OUT, &list("0xfffffff0", "0x10")),
        case("a list whose size wraps around", TRAPPED, OUT, &list("256", "214748365")),
        case("a list that is not aligned", TRAPPED, CROOKED, &list("257", "1")),
        case("a list within a list, beyond memory", TRAPPED, OUT, &elements("131064", "2")),
        case("a list within a list, not aligned", TRAPPED, CROOKED, &elements("1026", "1")),
        case("a list within a list of 4,294,967,295 elements", TRAPPED, OUT, &elements("1024", "-1")),
        case("a text that begins beyond memory", TRAPPED, OUT, &log("2", "131073", "1", "")),
        case("a text whose end wraps around", TRAPPED, OUT, &log("2", "-16", "32", "")),
        case("a text of 4,294,967,295 bytes", TRAPPED, OUT, &log("2", "1024", "-1", "")),
        case("a shape beyond memory", TRAPPED, OUT, &fill("0", "131072", "1", "512")),
        case("a shape of 2,147,483,648 dimensions", TRAPPED, OUT, &fill("0", "1024", "0x80000000", "512")),
        case("a shape that is not aligned", TRAPPED, CROOKED, &fill("0", "1025", "1", "512")),
        case("an answer wanted beyond memory", TRAPPED, OUT, &fill("0", "1024", "0", "131068")),
        case("an answer wanted where nothing is aligned", TRAPPED, CROOKED, &fill("0", "1024", "0", "513")),
        case("realloc answers a place beyond memory", TRAPPED, &["realloc return"], &realloc("131072")),
        case("realloc answers the end of the address space", TRAPPED, &["realloc return"], &realloc("-4")),
        case("realloc answers a place that is not aligned", TRAPPED, &["realloc return"], &realloc("1025")),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_no_case_is_a_trap() {
    let bed = Bed::open(|_| {}).await;
    const CASE: &[&str] = &["discriminant"];
    let text = |name: &str, encoding, data: &str, length: &str, says: &[&'static str]| {
        case(name, TRAPPED, says, &Core { encoding, ..log("2", "1024", length, data) })
    };
    bed.all(vec![
        case("a data type of number 8", TRAPPED, CASE, &fill("8", "1024", "0", "512")),
        case("a data type of number 4,294,967,295", TRAPPED, CASE, &fill("-1", "1024", "0", "512")),
        case("a log level of number 77", TRAPPED, CASE, &log("77", "1024", "0", "")),
        case("an entry neither done nor failed", TRAPPED, CASE, &answers("(i32.store8 (i32.const 256) (i32.const 2))")),
        case(
            "a failure of no kind",
            TRAPPED,
            CASE,
            &answers("(i32.store8 (i32.const 256) (i32.const 1)) (i32.store8 (i32.const 260) (i32.const 255))"),
        ),
        case("a value neither tensor nor bytes", TRAPPED, CASE, &output("(i32.store8 (i32.const 1032) (i32.const 7))")),
        case(
            "a media type neither there nor not",
            TRAPPED,
            CASE,
            &output("(i32.store8 (i32.const 1032) (i32.const 1)) (i32.store8 (i32.const 1052) (i32.const 2))"),
        ),
        case("a parameter of no kind", TRAPPED, CASE, &parameter(4, 0)),
        case(
            "a progress neither there nor not",
            TRAPPED,
            CASE,
            &infer(
                "(drop (call $report (local.get $job) (i32.const 1024) (i32.const 0) (i32.const 2) (f32.const 0)
                   (i32.const 0) (i32.const 0) (i32.const 0))) (call $ok)",
            ),
        ),
        // A truth value is true for any bits but none, by the component model's rules.
        case("a truth value of 254", Ending::Serves, &["Bool(true)"], &parameter(0, 254)),
        case("a parameter that is NaN with a payload", Ending::Fails(Code::BadResult), &["NaN"], &parameter(2, 0x7ff4_dead_beef_cafe)),
        case(
            "tensors and progress of signalling NaN",
            Ending::Serves,
            &[],
            &infer(
                "(drop (call $report (local.get $job) (i32.const 1024) (i32.const 0) (i32.const 1)
                   (f32.reinterpret_i32 (i32.const 0x7fa00001)) (i32.const 0) (i32.const 0) (i32.const 0)))
                 (call $fill (i32.const 0) (i32.const 1024) (i32.const 0)
                   (f64.reinterpret_i64 (i64.const 0x7ff4dead00000001)) (i32.const 512))
                 (call $read (i32.load (i32.const 516)) (i32.const 544)) (call $ok)",
            ),
        ),
        text("a text of bytes that are none", "utf8", "\\ff\\fe", "2", &["utf-8"]),
        text("a text that breaks off within a letter", "utf8", "a\\e2\\82", "3", &["utf-8"]),
        text("a text with a letter spelt too long", "utf8", "\\c0\\af", "2", &["utf-8"]),
        text("a text with half a surrogate", "utf8", "\\ed\\a0\\80", "3", &["utf-8"]),
        text("UTF-16 with half a surrogate", "utf16", "a\\00\\00\\d8", "2", &["surrogate"]),
        text("UTF-16 of 2,147,483,648 units", "utf16", "", "0x80000000", &["out of bounds"]),
        text("UTF-16 whose end is beyond memory", "utf16", "", "65535", &["out of bounds"]),
        text("latin1+utf16 of 2,147,483,647 units", "latin1+utf16", "", "-1", &["out of bounds"]),
        text("latin1+utf16 with half a surrogate", "latin1+utf16", "\\00\\dc", "0x80000001", &["surrogate"]),
        case(
            "UTF-16 that is not aligned",
            TRAPPED,
            &["aligned"],
            &Core { encoding: "utf16", ..log("2", "1025", "2", "") },
        ),
        case(
            "latin1+utf16 that is not aligned",
            TRAPPED,
            &["aligned"],
            &Core { encoding: "latin1+utf16", ..log("2", "1025", "0x80000002", "") },
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_between_components_are_checked_too() {
    let bed = Bed::open(|_| {}).await;
    // One component hands a text to another, which holds texts in another way.
    let pass = |from: &str, to: &str, place: &str, length: &str, data: &str| {
        let beside = format!(
            "(component $Taker
               (core module $M (memory (export \"memory\") 2)
                 (func (export \"realloc\") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
                 (func (export \"take\") (param i32 i32)))
               (core instance $m (instantiate $M))
               (func $take (param \"text\" string) (canon lift (core func $m \"take\")
                 (memory (core memory $m \"memory\")) (realloc (core func $m \"realloc\")) string-encoding={to}))
               (export \"take\" (func $take)))
             (instance $beside (instantiate $Taker))"
        );
        let before = format!(
            "(core func $take (canon lower (func $other \"take\")
               (memory (core memory $libc \"memory\")) (realloc (core func $libc \"realloc\")) string-encoding={from}))
             (core instance $other (export \"take\" (func $take)))"
        );
        Core {
            beside,
            before,
            other: "(import \"other\" (instance $other (export \"take\" (func (param \"text\" string)))))".into(),
            with: "(with \"other\" (instance $other))".into(),
            ..infer(format!("(call $take (i32.const {place}) (i32.const {length})) (call $ok)")).main(format!(
                "(import \"other\" \"take\" (func $take (param i32 i32))) (data (i32.const 1024) \"{data}\")"
            ))
        }
    };
    let mut cases = Vec::new();
    for to in ["utf8", "utf16", "latin1+utf16"] {
        for (from, place, length, data) in [
            ("utf8", "1024", "2", "\\ff\\fe"),
            ("utf8", "131070", "8", ""),
            ("utf8", "1024", "-1", ""),
            ("utf16", "1025", "2", "aaaaaa"),
            ("utf16", "1024", "1", "\\00\\d8"),
            ("utf16", "131068", "4", ""),
            ("utf16", "1024", "0x7fffffff", ""),
            ("latin1+utf16", "1025", "0x80000002", "aaaaaa"),
            ("latin1+utf16", "1024", "0x80000001", "\\00\\dc"),
            ("latin1+utf16", "1024", "0xffffffff", ""),
            ("utf8", "1024", "2", "ok"),
        ] {
            let name = format!("a text at {place} of {length} units, {from} to {to}");
            let ending = if data == "ok" { Ending::Serves } else { TRAPPED };
            cases.push(case(&name, ending, &[], &pass(from, to, place, length, data)));
        }
    }
    bed.all(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handle_is_worth_nothing_unless_it_was_given() {
    let bed = Bed::open(|_| {}).await;
    const HANDLE: &[&str] = &["handle"];
    let make = "(call $fill (i32.const 0) (i32.const 1024) (i32.const 0) (f64.const 1) (i32.const 512))
        (local.set $a (i32.load (i32.const 516)))";
    let ask = |number: &str| infer(format!("(drop (call $type (i32.const {number}))) (call $ok)"));
    let made = |then: &str| infer(format!("{make} {then} (call $ok)"));
    // The first output is the tensor whose handle is in `$a`, the second what is said.
    let two = |first: &str, second: &str| {
        infer(format!(
            "{make}
             (i32.store (i32.const 260) (i32.const 1024)) (i32.store (i32.const 264) (i32.const 2))
             (i32.store (i32.const 1024) (i32.const 1200)) (i32.store (i32.const 1028) (i32.const 1))
             (i32.store (i32.const 1036) {first})
             (i32.store (i32.const 1064) (i32.const 1201)) (i32.store (i32.const 1068) (i32.const 1))
             (i32.store (i32.const 1076) {second}) (call $ok)"
        ))
        .main("(data (i32.const 1200) \"xy\")")
    };
    let emit = |then: &str| {
        made(&format!(
            "(drop (call $emit (local.get $job) (i32.const 1200) (i32.const 1) (i32.const 0) (local.get $a)
               (i32.const 0) (i32.const 0) (i32.const 0))) {then}"
        ))
        .main("(data (i32.const 1200) \"xy\")")
    };
    // A first job leaves a thousand tensors behind; the others try the same numbers.
    let remember = |number: u32| {
        infer(format!(
            "(call $id (local.get $job) (i32.const 512))
             (if (i32.eq (i32.load (i32.const 516)) (i32.const 5)) (then
               (loop $l (call $fill (i32.const 0) (i32.const 1024) (i32.const 0) (f64.const 42) (i32.const 600))
                 (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1000)))))
             (else (call $read (i32.const {number}) (i32.const 600)))) (call $ok)"
        ))
    };
    // A component that is lent a handle and keeps it.
    let keeps = |then: &str| {
        let beside = format!(
            "(component $Keeper
               (import \"r\" (type $r (sub resource)))
               (core func $drop (canon resource.drop $r))
               (core module $M (import \"\" \"drop\" (func $drop (param i32)))
                 (global $kept (mut i32) (i32.const 0))
                 (func (export \"lend\") (param i32) {then}))
               (core instance $drops (export \"drop\" (func $drop)))
               (core instance $m (instantiate $M (with \"\" (instance $drops))))
               (func $lend (param \"r\" (borrow $r)) (canon lift (core func $m \"lend\")))
               (export \"lend\" (func $lend)))
             (instance $beside (instantiate $Keeper (with \"r\" (type $tensor))))"
        );
        Core {
            beside,
            other: "(import \"other\" (instance $other (alias outer 1 $tensor (type $t))
                (export \"lend\" (func (param \"r\" (borrow $t))))))"
                .into(),
            before: "(core func $lend (canon lower (func $other \"lend\")))
                (core instance $other (export \"lend\" (func $lend)))"
                .into(),
            with: "(with \"other\" (instance $other))".into(),
            ..made("(call $lend (local.get $a)) (call $lend (local.get $a))")
                .main("(import \"other\" \"lend\" (func $lend (param i32)))")
        }
    };
    let mut cases = vec![
        case(
            "a handle that was dropped",
            TRAPPED,
            HANDLE,
            &made("(call $tensor-drop (local.get $a)) (drop (call $type (local.get $a)))"),
        ),
        case(
            "a handle dropped twice",
            TRAPPED,
            HANDLE,
            &made("(call $tensor-drop (local.get $a)) (call $tensor-drop (local.get $a))"),
        ),
        case(
            "a job's handle as a tensor",
            TRAPPED,
            HANDLE,
            &infer("(drop (call $type (local.get $job))) (call $ok)"),
        ),
        case("a tensor's handle as a job", TRAPPED, HANDLE, &made("(drop (call $attempt (local.get $a)))")),
        case("a tensor dropped as a job", TRAPPED, HANDLE, &made("(call $job-drop (local.get $a))")),
        case(
            "a tensor dropped as a pollable",
            TRAPPED,
            HANDLE,
            &made("(call $pollable-drop (local.get $a))"),
        ),
        case(
            "a job used after it was dropped",
            TRAPPED,
            HANDLE,
            &infer("(call $job-drop (local.get $job)) (drop (call $attempt (local.get $job))) (call $ok)"),
        ),
        case("its own job in an output", TRAPPED, HANDLE, &two("(local.get $job)", "(local.get $a)")),
        case("one tensor in two outputs", TRAPPED, HANDLE, &two("(local.get $a)", "(local.get $a)")),
        case(
            "a tensor emitted and used after",
            TRAPPED,
            HANDLE,
            &emit("(call $read (local.get $a) (i32.const 544))"),
        ),
        case("a tensor emitted and never seen again", Ending::Serves, &[], &emit("")),
        case("handles left behind in a result", Ending::Serves, &[], &made("")),
        case(
            "a borrowed handle kept after the call",
            TRAPPED,
            &["borrow"],
            &keeps("(global.set $kept (local.get 0))"),
        ),
        case(
            "a borrowed handle used in the next call",
            TRAPPED,
            HANDLE,
            &keeps(
                "(if (global.get $kept) (then (call $drop (global.get $kept)))) (global.set $kept (local.get 0)) (call $drop (local.get 0))",
            ),
        ),
        case(
            "a borrowed handle dropped twice",
            TRAPPED,
            HANDLE,
            &keeps("(call $drop (local.get 0)) (call $drop (local.get 0))"),
        ),
        case(
            "a tensor of its own number in a list with a forged one",
            TRAPPED,
            HANDLE,
            &made(
                "(i32.store (i32.const 1024) (local.get $a)) (i32.store (i32.const 1028) (i32.const 999)) (call $dispatch (i32.const 1024) (i32.const 2) (i32.const 544))",
            ),
        ),
    ];
    for number in ["0", "1", "2", "3", "1000000", "0x7fffffff", "0x80000000", "0xfffffffe", "0xffffffff"] {
        cases.push(case(&format!("a forged handle, number {number}"), TRAPPED, HANDLE, &ask(number)));
    }
    for number in [2, 3, 500, 1001] {
        let name = format!("number {number} of what the job before left behind");
        cases.push(case(&name, TRAPPED, HANDLE, &remember(number)).after(&["first"]));
    }
    bed.all(cases).await;
}
