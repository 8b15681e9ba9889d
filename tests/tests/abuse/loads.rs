//! Files that are no good plugin: what says so, how soon, and that the host never reads, compiles or runs
//! what it should not.

use std::fs;
use std::time::Duration;

use warren::config::Config;
use warren::job::Code;
use warren_tests::abuse::{Bed, Case, Core, Ending, SLACK, bytes, case, infer};
use warren_tests::wasm::{component, functions, leb, module, sized, type_at, types};

/// How long and in how much memory a child may compile here.
const SECONDS: u64 = 15;
const MEMORY: u64 = 512;

fn limits(config: &mut Config) {
    config.compile_seconds = SECONDS;
    config.compile_memory_mib = MEMORY;
}

/// A row for a file that must be refused, with such a text.
fn refused(name: &str, says: &[&'static str], component: Vec<u8>) -> Case {
    Case { within: Duration::from_secs(SECONDS) + SLACK, ..bytes(name, Ending::Refused, says, component) }
}

/// A row for a good component with these definitions beside.
fn beside(name: &str, says: &[&'static str], text: &str) -> Case {
    let core = Core { before: text.into(), ..Core::default() };
    Case { within: Duration::from_secs(SECONDS) + SLACK, ..case(name, Ending::Refused, says, &core) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_guest_needs_is_off() {
    let bed = Bed::open(limits).await;
    let module =
        |name: &str, says: &[&'static str], text: &str| beside(name, says, &format!("(core module {text})"));
    // Two types of functions, one below the other: a call through a table asks which is which.
    let below =
        "(type $a (sub (func))) (type $b (sub $a (func))) (table 1 1 funcref) (elem (i32.const 0) func $f)
        (func $f (type $b))";
    bed.all(vec![
        module("threads: a shared memory", &["threads"], "(memory 1 2 shared)"),
        module("threads: an atomic load", &["threads"], "(memory 1) (func (drop (i32.atomic.load (i32.const 0))))"),
        module("garbage collection: a struct", &["gc"], "(type (struct (field i32)))"),
        module("garbage collection: an array", &["gc"], "(type (array i32))"),
        module("garbage collection: types below types", &["gc"], below),
        case(
            "garbage collection: a call through a table by a type above",
            Ending::Refused,
            &["gc"],
            &infer("(call_indirect (type $a) (i32.const 0)) (call $ok)").main(below),
        ),
        module("garbage collection: external references", &["gc types"], "(table 1 externref)"),
        module("function references", &["function references"], "(type $t (func)) (func (param (ref null $t)))"),
        module("exceptions", &["exceptions"], "(tag)"),
        module("memory64: a memory", &["memory64"], "(memory i64 1)"),
        module("memory64: a table", &["memory64"], "(table i64 1 funcref)"),
        module("stack switching", &["continuation"], "(type $t (func)) (type (cont $t))"),
        module("custom page sizes", &["page size"], "(memory 1 (pagesize 1))"),
        module("multi-memory", &["memories"], "(memory 1) (memory 1)"),
        module("tail calls", &["tail calls"], "(func $f return_call $f)"),
        module("wide arithmetic", &["wide arithmetic"], "(func (drop (drop (i64.add128 (i64.const 0) (i64.const 0) (i64.const 0) (i64.const 0)))))"),
        beside(
            "component async: a function",
            &["async"],
            "(core module $M (func (export \"f\") (result i32) unreachable) (func (export \"back\") (param i32 i32 i32) (result i32) unreachable))
             (core instance $m (instantiate $M))
             (func (canon lift (core func $m \"f\") async (callback (core func $m \"back\"))))",
        ),
        beside("component async: a stream", &["async"], "(type (stream u8))"),
        beside("component async: a future", &["async"], "(type (future u8))"),
        beside("component async: thread.yield", &["async"], "(core func (canon thread.yield))"),
        beside("component async: waitable-set.new", &["async"], "(core func (canon waitable-set.new))"),
        beside("component error-context", &["error-context"], "(type error-context)"),
        beside("component fixed-length lists", &["fixed"], "(type (list u8 1000000000))"),
        beside("component maps", &["map"], "(type (map string u8))"),
        beside("component values", &["value"], "(import \"v\" (value string))"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_of_another_world_is_refused() {
    let bed = Bed::open(limits).await;
    const WORLD: &str = "warren:plugin/plugin@0.1.0";
    let import = |name: &str, says: &'static str, text: &str| beside(name, &[WORLD, says], text);
    let text = Core::default().text();
    let edited = |name: &str, says: &[&'static str], from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        let edited = wat::parse_str(text.replace(from, to)).unwrap_or_else(|e| panic!("{name}: {e}"));
        refused(name, says, edited)
    };
    bed.all(vec![
        edited("no export prepare", &[WORLD, "prepare"], "(export \"prepare\" (func $prepare))", ""),
        edited("no export infer", &[WORLD, "infer"], "(export \"infer\" (func $infer))", ""),
        edited(
            "infer is prepare",
            &[WORLD, "infer"],
            "(export \"infer\" (func $infer))",
            "(export \"infer\" (func $prepare))",
        ),
        edited(
            "infer is an instance",
            &[WORLD, "infer"],
            "(export \"infer\" (func $infer))",
            "(instance $i (export \"infer\" (func $infer))) (export \"infer\" (instance $i))",
        ),
        edited(
            "the tensors of version 0.2.0",
            &[WORLD, "warren:plugin/tensors@0.2.0"],
            "warren:plugin/tensors@0.1.0",
            "warren:plugin/tensors@0.2.0",
        ),
        edited(
            "the tensors of version 1.0.0",
            &[WORLD, "warren:plugin/tensors@1.0.0"],
            "warren:plugin/tensors@0.1.0",
            "warren:plugin/tensors@1.0.0",
        ),
        edited(
            "an attempt that may be negative",
            &[WORLD, "warren:plugin/jobs"],
            "(borrow $job)) (result u32)",
            "(borrow $job)) (result s32)",
        ),
        import("a function of its own devising", "escape", "(import \"escape\" (func))"),
        import(
            "an interface of its own devising",
            "acme:evil/escape",
            "(import \"acme:evil/escape@6.6.6\" (instance (export \"now\" (func))))",
        ),
        import(
            "outgoing HTTP",
            "wasi:http/outgoing-handler",
            "(import \"wasi:http/outgoing-handler@0.2.0\" (instance (export \"handle\" (func))))",
        ),
        import("a core module of the host", "guts", "(import \"guts\" (core module))"),
        beside("a component of the host", &["component imports"], "(import \"guts\" (component))"),
        import("a resource of the host", "guts", "(import \"guts\" (type (sub resource)))"),
        import(
            "a log that reads",
            "read",
            "(import \"warren:plugin/log@0.1.1\" (instance (export \"read\" (func))))",
        ),
    ])
    .await;
}

/// A function's body with so many locals, each in a group of its own.
fn locals(groups: usize) -> Vec<u8> {
    [leb(groups), b"\x01\x7f".repeat(groups), b"\x0b".to_vec()].concat()
}

/// A module, as a section of a component, that imports so many functions, or exports its one so often.
fn ports(imports: usize, exports: usize) -> Vec<u8> {
    let import: Vec<u8> = (0..imports)
        .flat_map(|n| [sized(&[], b"m"), sized(&[], &n.to_string().into_bytes()), vec![0, 0]].concat())
        .collect();
    let export: Vec<u8> =
        (0..exports).flat_map(|n| [sized(&[], &n.to_string().into_bytes()), vec![0, 0]].concat()).collect();
    sized(
        &[1],
        &module(&[
            sized(&[1], b"\x01\x60\0\0"),
            sized(&[2], &[leb(imports), import].concat()),
            sized(&[3], b"\x01\0"),
            sized(&[7], &[leb(exports), export].concat()),
            sized(&[10], b"\x01\x02\0\x0b"),
        ]),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_for_a_compiler_is_refused() {
    const NOT: &str = "not a WebAssembly component";
    let bed = Bed::open(limits).await;
    let good = Core::default().bytes();
    let with = |sections: &[Vec<u8>]| [good.clone(), sections.concat()].concat();
    let table =
        |entries: usize| [&b"\0\x41\0\x0e"[..], &leb(entries), &vec![0; entries + 1], b"\x0b"].concat();
    let of = |constructor: &[u8], n: usize, times: usize| {
        [constructor, &type_at(n.saturating_sub(1)).repeat(times)].concat()
    };
    let bytes_type = b"\x70\x7d".to_vec();
    let enumeration = |cases: usize| {
        let names: Vec<u8> = (0..cases).flat_map(|n| sized(&[], format!("c{n}").as_bytes())).collect();
        sized(&[7], &[&[1, 0x6d][..], &leb(cases), &names].concat())
    };
    let serves = |name: &str, component: Vec<u8>| Case {
        within: Duration::from_secs(SECONDS) + SLACK,
        ..bytes(name, Ending::Serves, &[], component)
    };
    fastrand::seed(7);
    let mut cases = vec![
        refused("an ELF program", &[NOT], fs::read("/bin/true").expect("a program")),
        refused("a good component's first half", &[NOT], good[..good.len() / 2].to_vec()),
        refused("a good component less its last byte", &[NOT], good[..good.len() - 1].to_vec()),
        refused("a good component and a byte more", &[NOT], [&good[..], b"\0"].concat()),
        refused(
            "a good component of another version",
            &[NOT],
            [&good[..4], b"\x0e\0\x01\0", &good[8..]].concat(),
        ),
        refused(
            "a function of 1,000,000 locals",
            &[NOT, "locals"],
            with(&[functions(1, &locals(1_000_000))]),
        ),
        refused(
            "a function of 7,700,000 bytes",
            &[NOT, "size"],
            with(&[functions(1, &[&b"\0"[..], &vec![1; 7_700_000], b"\x0b"].concat())]),
        ),
        refused("a jump to 1,000,000 places", &[NOT], with(&[functions(1, &table(1_000_000))])),
        refused("1,000,000 imports of a module", &[NOT, "type size"], with(&[ports(1_000_000, 0)])),
        refused("1,000,001 exports of a module", &[NOT, "exports"], with(&[ports(0, 1_000_001)])),
        refused(
            "components 1,000 deep",
            &["no export"],
            (0..1000).fold(good.clone(), |inner, _| component(&[sized(&[4], &inner)])),
        ),
        refused(
            "an import whose name has 1,000,000 bytes",
            &[NOT],
            with(&[sized(&[10], &[&[1, 0][..], &sized(&[], &vec![b'a'; 1_000_000]), &[1, 0]].concat())]),
        ),
        refused(
            "tuples of 1,000 of those before, 8 times over",
            &[NOT, "size"],
            component(&[types(8, |n| {
                if n == 0 { bytes_type.clone() } else { of(&[&b"\x6f"[..], &leb(1000)].concat(), n, 1000) }
            })]),
        ),
        refused("an enumeration of 1,000,000 cases", &[NOT], component(&[enumeration(1_000_000)])),
        refused("1,100,000 types", &[NOT], with(&[types(1_100_000, |_| bytes_type.clone())])),
        serves(
            "a custom section of 100 MB",
            with(&[sized(&[0], &[sized(&[], b"x"), vec![0; 100 << 20]].concat())]),
        ),
        serves("100,000 empty custom sections", with(&[sized(&[0], &sized(&[], b"x")).repeat(100_000)])),
    ];
    for n in 0..6 {
        let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(100_000).collect();
        let head = if n % 2 == 0 { &b""[..] } else { &good[..8] };
        cases.push(refused(&format!("100,000 random bytes, number {n}"), &[NOT], [head, &noise].concat()));
    }
    for n in 0..40 {
        // Wherever a byte is wrong, a component of it is either refused or as good as any.
        let mut broken = good.clone();
        let place = fastrand::usize(8..broken.len());
        broken[place] ^= 0xff;
        let name = format!("a wrong byte at {place}, number {n}");
        cases.push(Case { ending: Ending::Any, ..refused(&name, &[], broken) });
    }
    bed.all(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_a_compiler_too_long_is_stopped() {
    let bed = Bed::open(|config| config.compile_seconds = 2).await;
    let body = [&b"\0"[..], &b"\x03\x40".repeat(20_000), &b"\x0b".repeat(20_001)].concat();
    let loops = [Core::default().bytes(), functions(40, &body)].concat();
    let says = &["compile_seconds", "longer than 2 s"];
    bed.all(vec![Case {
        within: Duration::from_secs(2) + SLACK,
        ..refused("40 functions of 20,000 loops within loops", says, loops)
    }])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_a_module_gives_itself_are_shown_short_and_plain() {
    let bed = Bed::open(limits).await;
    let long = "\\1b[31m".to_owned() + &"n".repeat(1 << 20);
    let trap = infer("(call $f) (call $ok)").main(format!("(func $f (@name \"{long}\") unreachable)"));
    bed.all(vec![case(
        "a trap in a function whose name has a MiB, and an escape",
        Ending::Fails(Code::PluginTrapped),
        &["unreachable", "\u{fffd}[31mnnn"],
        &trap,
    )])
    .await;
}
