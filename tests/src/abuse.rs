//! Components written by hand, each exactly as hostile as wanted, and the place where they are let
//! loose: a host that serves a neighbour meanwhile, whose time and memory are measured.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use warren::config::Config;
use warren::job::Code;
use warren_client::{Client, JobRequest};

use crate::house::follow;
use crate::process::{binary, resident_kib};
use crate::{GLANCE, House, PATIENCE, guest, patient};

/// What is imported of the host, with all the types that it takes.
const WORLD: &str = include_str!("abuse/world.wat");

/// A plugin in component text: two core modules, of which `libc` has the memory and `main` the rest.
/// Every part does the least that makes a good plugin; a case replaces one.
///
/// Of the first page `main` keeps 64..128 as the answer of `prepare`, 128..136 as that of `infer`, 256..276
/// as its one entry, 512..768 for what host calls answer and 1024..4096 for data.
#[derive(Debug, Clone)]
pub struct Core {
    /// Pages of memory, as its type says.
    pub memory: String,
    /// Further fields of `libc`.
    pub libc: String,
    /// What the host calls for memory: `$old`, `$size`, `$align` and `$new` to an address.
    pub realloc: String,
    /// Between the host's functions and `main`: definitions of the component.
    pub before: String,
    /// Further instances that `main` imports.
    pub with: String,
    /// Fields of `main`, imports first.
    pub main: String,
    /// Answers where its result lies.
    pub prepare: String,
    /// Is handed `$batch` and `$count`, has locals `$job`, `$a`, `$b`, `$n` and `$w`, answers where its
    /// result lies. `(call $ok)` answers that all is well.
    pub infer: String,
    /// What is done after `infer`, with its answer as `$answer`.
    pub post: String,
    /// How strings are passed.
    pub encoding: &'static str,
    /// Components beside the plugin and an instance `$beside` of them, which the plugin imports as `other`:
    /// what it calls must not be part of itself.
    pub beside: String,
    /// That import.
    pub other: String,
}

/// The next so many bytes.
const BUMP: &str = "
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
    (global.set $top (i32.add (local.get $at) (local.get $new)))
    (block $fits (loop $grow
      (br_if $fits (i32.le_u (global.get $top) (i32.shl (memory.size) (i32.const 16))))
      (br_if $grow (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))
      (unreachable)))
    (local.get $at)";

impl Default for Core {
    fn default() -> Self {
        Self {
            memory: "2".into(),
            libc: String::new(),
            realloc: BUMP.into(),
            before: String::new(),
            with: String::new(),
            main: String::new(),
            prepare: "(i32.const 64)".into(),
            infer: "(call $ok)".into(),
            post: String::new(),
            encoding: "utf8",
            beside: String::new(),
            other: String::new(),
        }
    }
}

/// A plugin whose `infer` is this.
pub fn infer(body: impl Into<String>) -> Core {
    Core { infer: body.into(), ..Core::default() }
}

impl Core {
    /// The same with these fields in `main`.
    #[must_use]
    pub fn main(mut self, fields: impl Into<String>) -> Self {
        self.main = fields.into();
        self
    }

    /// The component's text.
    pub fn text(&self) -> String {
        let Self { memory, libc, realloc, before, with, main, prepare, infer, post, encoding, beside, other } =
            self;
        let post = if post.is_empty() { "" } else { post };
        let options = format!(
            "(memory (core memory $libc \"memory\")) (realloc (core func $libc \"realloc\")) string-encoding={encoding}"
        );
        let world = WORLD.replace("OPTIONS", &options);
        let (world, lowered) = world.split_once(";; lowered").expect("two parts");
        let (ports, wrapped) =
            if beside.is_empty() { ("", String::new()) } else { (&other[..], wrap(world, beside)) };
        let plugin = format!(
            "{world}
  {ports}
  (core module $Libc
    (memory (export \"memory\") {memory})
    (global $top (mut i32) (i32.const 65536))
    {libc}
    (func (export \"realloc\") (param $old i32) (param $size i32) (param $align i32) (param $new i32)
      (result i32) (local $at i32) {realloc}))
  (core instance $libc (instantiate $Libc))
  {lowered}
  {before}
  (core module $Main
    {IMPORTS}
    {main}
    (func $ok (result i32)
      (i32.store (i32.const 128) (i32.const 256)) (i32.store (i32.const 132) (i32.const 1)) (i32.const 128))
    (func (export \"prepare\") (result i32) {prepare})
    (func (export \"infer\") (param $batch i32) (param $count i32) (result i32)
      (local $job i32) (local $a i32) (local $b i32) (local $n i32) (local $w i64)
      (local.set $job (i32.load (local.get $batch)))
      {infer})
    (func (export \"post\") (param $answer i32) {post}))
  (core instance $main (instantiate $Main
    (with \"libc\" (instance $libc)) (with \"host\" (instance $host)) {with}))
  (func $prepare (result (result (error $failure)))
    (canon lift (core func $main \"prepare\") {options}))
  (export \"prepare\" (func $prepare))
  (func $infer (param \"batch\" (list (own $job))) (result (list (result $outputs (error $failure))))
    (canon lift (core func $main \"infer\") {options} (post-return (core func $main \"post\"))))
  (export \"infer\" (func $infer))"
        );
        if wrapped.is_empty() {
            return format!("(component {plugin})");
        }
        wrapped.replace("PLUGIN", &plugin)
    }

    /// The component.
    pub fn bytes(&self) -> Vec<u8> {
        let text = self.text();
        wat::parse_str(&text).unwrap_or_else(|e| panic!("{e}"))
    }
}

/// A component of which the plugin is only a part; `PLUGIN` stands for what is in that.
fn wrap(world: &str, beside: &str) -> String {
    let imports = [
        ("warren:plugin/tensors@0.1.0", "tensors"),
        ("warren:plugin/types@0.1.0", "types"),
        ("warren:plugin/jobs@0.1.0", "jobs"),
        ("warren:plugin/assets@0.1.0", "assets"),
        ("warren:plugin/log@0.1.0", "log"),
        ("wasi:io/poll@0.2.0", "poll"),
        ("wasi:clocks/monotonic-clock@0.2.0", "clock"),
    ];
    let with: String =
        imports.iter().map(|(name, id)| format!("(with \"{name}\" (instance ${id}))")).collect();
    format!(
        "(component {world}
  {beside}
  (component $Plugin PLUGIN)
  (instance $plugin (instantiate $Plugin {with} (with \"other\" (instance $beside))))
  (type $prepare (func (result (result (error $failure)))))
  (export \"prepare\" (func $plugin \"prepare\") (func (type $prepare)))
  (type $infer (func (param \"batch\" (list (own $job))) (result (list (result $outputs (error $failure))))))
  (export \"infer\" (func $plugin \"infer\") (func (type $infer))))"
    )
}

/// What `main` has of the host.
const IMPORTS: &str = "
    (import \"libc\" \"memory\" (memory 0))
    (import \"host\" \"tensor-drop\" (func $tensor-drop (param i32)))
    (import \"host\" \"job-drop\" (func $job-drop (param i32)))
    (import \"host\" \"pollable-drop\" (func $pollable-drop (param i32)))
    (import \"host\" \"type\" (func $type (param i32) (result i32)))
    (import \"host\" \"shape\" (func $shape (param i32 i32)))
    (import \"host\" \"read\" (func $read (param i32 i32)))
    (import \"host\" \"constant\" (func $constant (param i32 i32 i32 i32 i32 i32)))
    (import \"host\" \"fill\" (func $fill (param i32 i32 i32 f64 i32)))
    (import \"host\" \"dispatch\" (func $dispatch (param i32 i32 i32)))
    (import \"host\" \"add\" (func $add (param i32 i32 i32)))
    (import \"host\" \"id\" (func $id (param i32 i32)))
    (import \"host\" \"attempt\" (func $attempt (param i32) (result i32)))
    (import \"host\" \"report\" (func $report (param i32 i32 i32 i32 f32 i32 i32 i32) (result i32)))
    (import \"host\" \"emit\" (func $emit (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (import \"host\" \"put-bytes\" (func $put-bytes (param i32 i32 i32 i32 i32)))
    (import \"host\" \"log\" (func $log (param i32 i32 i32 i32 i32)))
    (import \"host\" \"subscribe\" (func $subscribe (param i64) (result i32)))
    (import \"host\" \"block\" (func $block (param i32)))
    (import \"host\" \"poll\" (func $poll (param i32 i32 i32)))";

/// How a case must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The plugin is not loaded.
    Refused,
    /// The job fails with this code.
    Fails(Code),
    /// The job succeeds: what was tried came to nothing.
    Serves,
    /// Any of these: what counts is time, memory, and who is not hurt.
    Any,
}

/// One row of the table.
#[derive(Debug)]
pub struct Case {
    /// What is tried.
    pub name: String,
    /// The component's bytes.
    pub component: Vec<u8>,
    /// How it must end.
    pub ending: Ending,
    /// What the text must hold, in any case of letters.
    pub says: Vec<&'static str>,
    /// Further lines of the manifest's limits.
    pub limits: &'static str,
    /// How long it may take at most: [`SLACK`] and what the limits allow.
    pub within: Duration,
    /// Jobs before the one that must end so: ids with which they must succeed.
    pub before: Vec<&'static str>,
}

/// What a machine that is busy with other things may add to a limit.
pub const SLACK: Duration = Duration::from_secs(3);
/// Wall and stall time where one of them must strike, ms. Elsewhere neither does, however slow the machine
/// is.
pub const WALL: u64 = 1200;
/// See [`WALL`].
pub const STALL: u64 = 400;
const PATIENT: u64 = 30_000;
/// How much of a case may stay in the host's memory, MiB: allocators keep some of what they had.
pub const MARGIN: u64 = 64;

/// A row: a component that must end so, with a text that holds all of `says`.
pub fn case(name: &str, ending: Ending, says: &[&'static str], core: &Core) -> Case {
    bytes(name, ending, says, core.bytes())
}

/// A row for a component that is not made of text.
pub fn bytes(name: &str, ending: Ending, says: &[&'static str], component: Vec<u8>) -> Case {
    Case {
        name: name.to_owned(),
        component,
        ending,
        says: says.to_vec(),
        limits: "",
        within: Duration::from_millis(WALL) + SLACK,
        before: Vec::new(),
    }
}

impl Case {
    /// Its limits, with clocks that are long unless the case says that they strike.
    fn clocks(&self) -> String {
        let mut limits = self.limits.to_owned();
        for key in ["wall_ms", "stall_ms"] {
            if !self.says.iter().any(|text| text.contains(key)) {
                limits = format!("{key} = {PATIENT}\n{limits}");
            }
        }
        limits
    }

    /// The same with further limits in its manifest.
    #[must_use]
    pub fn limits(mut self, limits: &'static str) -> Self {
        self.limits = limits;
        self
    }

    /// The same after jobs with these ids, which must succeed.
    #[must_use]
    pub fn after(mut self, jobs: &[&'static str]) -> Self {
        self.before = jobs.to_vec();
        self
    }
}

/// Writes a plugin's folder with such a component, which serves the model `name`.
pub fn plugin(dir: &Path, name: &str, component: &[u8], limits: &str) -> PathBuf {
    let folder = dir.join(name);
    std::fs::create_dir_all(&folder).expect("folder");
    std::fs::write(folder.join("c.wasm"), component).expect("component");
    let clock =
        |key: &str, ms: u64| if limits.contains(key) { String::new() } else { format!("{key} = {ms}\n") };
    let (wall, stall) = (clock("wall_ms", WALL), clock("stall_ms", STALL));
    let manifest = format!(
        "name = \"{name}\"\nversion = \"0.1.0\"\nmodels = [\"{name}\"]\ncomponent = \"c.wasm\"\n[limits]\n\
         memory_mib = 64\ndevice_mib = 64\noutput_mib = 4\nlog_kib = 16\n{wall}{stall}{limits}\n"
    );
    std::fs::write(folder.join("plugin.toml"), manifest).expect("manifest");
    folder
}

/// Resident memory of this process, MiB.
pub fn resident_mib() -> u64 {
    resident_kib(std::process::id()).expect("this process") >> 10
}

/// Cases run one after another, so that time and memory are theirs.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A host in this process with `echo`, a neighbour, and a compiler in a child.
pub struct Bed {
    /// The host.
    pub house: House,
    /// Where plugins are put.
    pub dir: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Bed {
    /// Waits for its turn and starts the host.
    pub async fn open(change: impl FnOnce(&mut Config)) -> Self {
        let alone = ALONE.lock().await;
        let dir = tempfile::tempdir().expect("directory");
        let served = [guest("echo"), patient(dir.path())];
        let house = House::with(&served, |config| {
            config.compiler = Some(binary());
            // Where what is built goes, so that the neighbours are compiled once.
            config.cache = Some(binary().with_file_name("warren-cache"));
            config.device = "cpu".into();
            change(config);
        })
        .await;
        let bed = Self { house, dir, _alone: alone };
        // Whatever the first job of all makes, no case is charged with it.
        neighbour(&bed.house.client).await;
        bed.house.answers("nothing").await;
        bed
    }

    /// Runs all cases, prints a row for each, and panics with all that is wrong.
    pub async fn all(&self, cases: Vec<Case>) {
        let mut wrong = Vec::new();
        for case in cases {
            wrong.extend(self.row(case).await.err());
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// Runs one case, with a neighbour at work all the while.
    async fn row(&self, case: Case) -> Result<(), String> {
        let folder = plugin(self.dir.path(), "hostile", &case.component, &case.clocks());
        let before = resident_mib();
        let ended = tokio::sync::watch::channel(false);
        let beside = async {
            let mut jobs = 0;
            while jobs == 0 || !*ended.1.borrow() {
                neighbour(&self.house.client).await;
                jobs += 1;
            }
            jobs
        };
        let attack = async {
            let end = self.attack(&folder, &case).await;
            ended.0.send_replace(true);
            end
        };
        let (jobs, (found, text, took)) = tokio::join!(beside, attack);
        drop(self.house.host().deployer().unload("hostile").await);
        self.house.answers(&case.name).await;
        self.house.quiet().await;
        drop(self.house.dead_letters().await);
        let since = Instant::now();
        let mut after = resident_mib();
        while after > before + MARGIN && since.elapsed() < SLACK {
            tokio::time::sleep(GLANCE).await;
            after = resident_mib();
        }
        let place = format!("{}/", self.dir.path().display());
        let text = text.replace(&place, "");
        let line: String = text.lines().next().unwrap_or_default().chars().take(220).collect();
        let (name, ms) = (&case.name, took.as_millis());
        println!("{name} | {found}: {line} | {ms} ms | {before} -> {after} MiB");
        let mut wrong = Vec::new();
        let due = match case.ending {
            Ending::Refused => "refused",
            Ending::Fails(code) => code.info().name,
            Ending::Serves => "RESULT",
            Ending::Any => &found,
        };
        if found != due {
            wrong.push(format!("{found} where {due} is due: {text}"));
        }
        let lower = text.to_lowercase();
        wrong.extend(
            case.says
                .iter()
                .filter(|word| !lower.contains(&word.to_lowercase()))
                .map(|word| format!("{word:?} is not in {text:?}")),
        );
        if text.len() > 8 << 10 || text.contains('\u{1b}') {
            wrong.push(format!("a text of {} bytes: {text:?}", text.len()));
        }
        if took > case.within {
            wrong.push(format!("it took {took:?}, more than {:?}", case.within));
        }
        if after > before + MARGIN {
            wrong.push(format!("{} MiB stay in memory", after - before));
        }
        if jobs == 0 {
            wrong.push("no neighbour".into());
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("{name}:\n  {}", wrong.join("\n  "))) }
    }

    /// Loads the plugin and runs its jobs; answers the code and the text of the last, and how long that
    /// took: loading, where it is refused, else the job.
    async fn attack(&self, folder: &Path, case: &Case) -> (String, String, Duration) {
        let start = Instant::now();
        if let Err(error) = self.house.host().deployer().load(folder).await {
            return ("refused".into(), error.to_string(), start.elapsed());
        }
        for id in &case.before {
            let seen = self.house.run(JobRequest::new("hostile").id(*id)).await;
            if let Err(error) = seen.end() {
                return ("early".into(), format!("job {id} failed: {error}"), start.elapsed());
            }
        }
        let start = Instant::now();
        let seen = self.house.run(JobRequest::new("hostile")).await;
        let (code, text) = match seen.end() {
            Ok(response) => ("RESULT".into(), format!("{:?}", response.parameters)),
            Err(error) => (error.code.clone(), error.text.clone()),
        };
        (code, text, start.elapsed())
    }
}

/// A job that computes for a while; it must end right.
async fn neighbour(client: &Client) {
    let request = JobRequest::new("patient").parameter("mode", "busy").parameter("number", 20);
    let seen =
        tokio::time::timeout(PATIENCE, follow(client, request)).await.expect("the neighbour is served");
    assert_eq!(seen.code(), "RESULT", "the neighbour: {:?}", seen.events);
}
