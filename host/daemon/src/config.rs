//! The operator's configuration: a TOML file, `WARREN_…` environment variables and flags, the
//! later over the earlier. Unknown keys are errors wherever they come from. Knows no other module.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};
use warren_tensor::DeviceChoice;

mod registry;

pub use registry::Registry;

/// Every setting, with its default.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `embedded`: the in-process broker, in memory. Else one or more `amqp://` or `amqps://`
    /// addresses of a RabbitMQ, separated by commas, tried in this order.
    pub broker: String,
    /// How RabbitMQ is connected to.
    pub amqp: Amqp,
    /// Probes over HTTP.
    pub health: Health,
    /// The directory whose sub-folders are plugins.
    pub plugins: PathBuf,
    /// The socket over which `warren plugin list|load|unload|pin|rollback` reach a running host; without,
    /// one in `$RUNTIME_DIRECTORY` or `$XDG_RUNTIME_DIR`, or none where neither is set.
    pub admin: Option<PathBuf>,
    /// How often the plugin directory is looked at when nothing told of a change, ms: network file
    /// systems tell nothing.
    pub rescan_ms: u64,
    /// Plugins served beside those of the directory, by digest: `oci://registry/repository@sha256:…` or
    /// `oci-layout:/folder@sha256:…`.
    pub plugins_from: Vec<String>,
    /// How they are pulled.
    pub registry: Registry,
    /// Public keys (64 hexadecimal digits, from `warren plugin keygen`): where there are any, only plugins
    /// that one of them has signed are served.
    pub signers: Vec<String>,
    /// When a new version gives way to the one before it.
    pub rollback: Rollback,
    /// How the versions of a plugin share its jobs, by the plugin's name; the newest takes all where
    /// nothing is said.
    pub versions: BTreeMap<String, Versions>,
    /// Guests that run at a time; 0: one a core.
    pub slots: usize,
    /// Threads of the tensor engine; 0: one a core.
    pub tensor_threads: usize,
    /// What runs tensor graphs: `auto` (a GPU that computes right, else the CPU), `cpu`, `wgpu` (a
    /// GPU, or the host does not start), or `wgpu:<part of an adapter's name>`.
    pub device: String,
    /// The most that all jobs and assets together hold on the device, MiB: on a GPU, or of host memory
    /// where the CPU computes. Before that, the assets of idle plugins are given up.
    pub device_memory_mib: u64,
    /// How long a GPU may be silent over a piece of work before it counts as lost, ms.
    pub device_silence_ms: u64,
    /// Unsettled deliveries a queue; 0: as many as keep the slots busy, by what the jobs take.
    pub prefetch: u16,
    /// Scratch directories are made here; none: the system's temporary directory.
    pub scratch: Option<PathBuf>,
    /// Delays of the retry tiers, ms, shortest first.
    pub retry_delays_ms: Vec<u64>,
    /// The most that any plugin may use, whatever its manifest says.
    pub limits: Limits,
    /// How much stack a guest has, KiB.
    pub stack_kib: u64,
    /// Count the instructions of all guests, which makes them slower: `limits.fuel` needs it.
    pub count_fuel: bool,
    /// Memory that compiling a component may take, MiB.
    pub compile_memory_mib: u64,
    /// How long compiling a component may take, s.
    pub compile_seconds: u64,
    /// Where compiled code is kept, in a directory of this user's own; none: the commands use
    /// `$CACHE_DIRECTORY`, `$XDG_CACHE_HOME/warren` or `~/.cache/warren`; empty: it is not kept.
    pub cache: Option<PathBuf>,
    /// The most that is kept there, MiB. What was not used for longest goes first.
    pub cache_mib: u64,
    /// The `warren` that compiles components in a process of its own, as the commands set it; none:
    /// this process compiles, under no limit.
    #[serde(skip)]
    pub compiler: Option<PathBuf>,
    /// Inputs and outputs by reference.
    pub artifacts: Artifacts,
    /// The response queue's name for jobs without a reply address.
    pub responses_queue: String,
    /// How long running jobs may take to finish at shutdown, ms.
    pub drain_ms: u64,
    /// How long a message is remembered, so that the same one published twice is answered once, ms;
    /// 0: not at all.
    pub duplicate_window_ms: u64,
    /// How long a job for a model that nobody serves waits for a host before it becomes a dead
    /// letter, ms. The same for all hosts of a broker.
    pub unserved_ms: u64,
    /// What this host is called in dead letters; empty: the machine's name.
    pub host_name: String,
    /// How long a job whose host was lost while it ran alone is held back, for that host to say that
    /// it lost its connection and nothing more, ms.
    pub crash_grace_ms: u64,
    /// How often a job's statuses go out at most, ms between two.
    pub status_interval_ms: u64,
    /// Reset instance memory by scanning the page map: faster, but only safe without swap.
    pub pagemap_scan: bool,
}

/// The broker that needs no address.
pub const EMBEDDED: &str = "embedded";

/// How RabbitMQ is connected to.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Amqp {
    /// What the broker's operators see as the name of the connections.
    pub name: String,
    /// A PEM file with the certificate authorities of the broker, beside the system's.
    pub ca: Option<PathBuf>,
    /// A PEM file with this host's certificate chain; needs `key`.
    pub certificate: Option<PathBuf>,
    /// A PEM file with its key (PKCS#8).
    pub key: Option<PathBuf>,
    /// For the first connection, over all attempts, ms.
    pub startup_ms: u64,
}

impl Default for Amqp {
    fn default() -> Self {
        Self { name: "warren".into(), ca: None, certificate: None, key: None, startup_ms: 30_000 }
    }
}

/// Probes over HTTP.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// Address and port on which `/livez` and `/readyz` answer, e.g. `0.0.0.0:8080`; none: nowhere.
    pub listen: Option<String>,
}

/// When a new version gives way to the one before it, which is kept loaded until then.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rollback {
    /// How many of its first jobs are looked at; 0: it is never taken back.
    pub jobs: u32,
    /// It is taken back when more than this part of them failed by the plugin's doing, 0 to 1.
    pub rate: f64,
}

impl Default for Rollback {
    fn default() -> Self {
        Self { jobs: 20, rate: 0.5 }
    }
}

/// How the versions of a plugin share its jobs. One of the two, or none.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Versions {
    /// This version takes all of them.
    pub pin: Option<String>,
    /// Each takes its part, e.g. `{ "1.2.0" = 90, "1.3.0" = 10 }`.
    pub weights: BTreeMap<String, u32>,
}

/// Inputs and outputs by reference.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Artifacts {
    /// Directories from which `file://` references may be read.
    pub read: Vec<PathBuf>,
    /// Where outputs that leave by reference are written; none: everything goes inline.
    pub write: Option<PathBuf>,
    /// Outputs above this size leave by reference, KiB.
    pub inline_kib: u64,
    /// Largest referenced input, MiB.
    pub max_input_mib: u64,
}

impl Default for Artifacts {
    fn default() -> Self {
        Self { read: Vec::new(), write: None, inline_kib: 1024, max_input_mib: 256 }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            broker: EMBEDDED.into(),
            amqp: Amqp::default(),
            health: Health::default(),
            plugins: "plugins".into(),
            admin: None,
            rescan_ms: 5_000,
            plugins_from: Vec::new(),
            registry: Registry::default(),
            signers: Vec::new(),
            rollback: Rollback::default(),
            versions: BTreeMap::new(),
            slots: 0,
            tensor_threads: 0,
            device: "auto".into(),
            device_memory_mib: 4096,
            device_silence_ms: 20_000,
            prefetch: 0,
            scratch: None,
            retry_delays_ms: vec![1_000, 10_000, 60_000],
            limits: Limits {
                memory_mib: 2048,
                wall_ms: 3_600_000,
                stall_ms: 600_000,
                device_mib: 8192,
                assets_mib: 8192,
                output_mib: 512,
                events: 1_000_000,
                log_kib: 4096,
                scratch_mib: 1024,
                cpu_ms: 3_600_000,
                fuel: 0,
                table_elements: crate::config::TABLE_ELEMENTS,
                handles: 100_000,
                hostcall_mib: 4096,
                hostcall_total_mib: 1 << 20,
                events_per_second: 1_000_000,
            },
            stack_kib: 1024,
            count_fuel: false,
            compile_memory_mib: 2048,
            compile_seconds: 120,
            cache: None,
            cache_mib: 4096,
            compiler: None,
            artifacts: Artifacts::default(),
            responses_queue: "warren.responses".into(),
            drain_ms: 30_000,
            duplicate_window_ms: 60_000,
            unserved_ms: 60_000,
            host_name: String::new(),
            crash_grace_ms: 5_000,
            status_interval_ms: 50,
            pagemap_scan: true,
        }
    }
}

/// What a plugin may use. The operator's config caps each.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Linear memory, MiB.
    pub memory_mib: u64,
    /// Wall time of one call, ms.
    pub wall_ms: u64,
    /// Time without a status or tensor work, ms.
    pub stall_ms: u64,
    /// Device memory of one job's tensors, MiB.
    pub device_mib: u64,
    /// Device memory and bytes of the assets, MiB.
    pub assets_mib: u64,
    /// Outputs and partials of one job, MiB.
    pub output_mib: u64,
    /// Events that one job may report.
    pub events: u64,
    /// Log of one job, KiB.
    pub log_kib: u64,
    /// What one job may write into its scratch directory, MiB: how much its files grow, and 4 KiB for each
    /// file, directory and link. 0: it has none.
    pub scratch_mib: u64,
    /// Processor time of the guest's own code in one call, ms, to the nearest 10.
    pub cpu_ms: u64,
    /// Instructions of the guest's own code in one call, as wasmtime counts fuel; 0: not counted. Needs
    /// the operator's `count_fuel`.
    pub fuel: u64,
    /// Elements of all tables together.
    pub table_elements: u64,
    /// Handles held at a time: tensors, jobs, files, streams.
    pub handles: u64,
    /// Bytes passed in one call of the host, MiB; never more than the memory and one MiB.
    pub hostcall_mib: u64,
    /// Bytes passed to and from the host in one call of the plugin, MiB; files and the log have limits
    /// of their own.
    pub hostcall_total_mib: u64,
    /// Events that one job may report in any one second, after a burst of as many.
    pub events_per_second: u64,
}

/// The most elements that the tables of one instance have, whatever the config says: what the pool
/// reserves. Beyond what real guests use, below what hurts.
pub const TABLE_ELEMENTS: u64 = 20_000;

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_mib: 256,
            wall_ms: 60_000,
            stall_ms: 30_000,
            device_mib: 1024,
            assets_mib: 1024,
            output_mib: 64,
            events: 100_000,
            log_kib: 256,
            scratch_mib: 64,
            cpu_ms: 3_600_000,
            fuel: 0,
            table_elements: TABLE_ELEMENTS,
            handles: 100_000,
            hostcall_mib: 256,
            hostcall_total_mib: 65_536,
            events_per_second: 100_000,
        }
    }
}

impl Limits {
    /// The smaller of each.
    pub fn capped(&self, cap: &Self) -> Self {
        Self {
            memory_mib: self.memory_mib.min(cap.memory_mib),
            wall_ms: self.wall_ms.min(cap.wall_ms),
            stall_ms: self.stall_ms.min(cap.stall_ms),
            device_mib: self.device_mib.min(cap.device_mib),
            assets_mib: self.assets_mib.min(cap.assets_mib),
            output_mib: self.output_mib.min(cap.output_mib),
            events: self.events.min(cap.events),
            log_kib: self.log_kib.min(cap.log_kib),
            scratch_mib: self.scratch_mib.min(cap.scratch_mib),
            cpu_ms: self.cpu_ms.min(cap.cpu_ms),
            fuel: match (self.fuel, cap.fuel) {
                (asked, 0) => asked,
                (0, most) => most,
                (asked, most) => asked.min(most),
            },
            table_elements: self.table_elements.min(cap.table_elements),
            handles: self.handles.min(cap.handles),
            hostcall_mib: self.hostcall_mib.min(cap.hostcall_mib),
            hostcall_total_mib: self.hostcall_total_mib.min(cap.hostcall_total_mib),
            events_per_second: self.events_per_second.min(cap.events_per_second),
        }
    }

    /// Wall time of one call.
    pub fn wall(&self) -> Duration {
        Duration::from_millis(self.wall_ms)
    }

    /// Longest silence.
    pub fn stall(&self) -> Duration {
        Duration::from_millis(self.stall_ms)
    }
}

/// MiB in bytes, without overflow.
pub fn mib(n: u64) -> u64 {
    n.saturating_mul(1 << 20)
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that was named is not there.
    #[error("config file {0}: not found")]
    Missing(PathBuf),
    /// An unknown key, a wrong type, or not TOML. The text names key and source.
    #[error("config: {0}")]
    Read(Box<figment::Error>),
    /// A value that makes no sense.
    #[error("config: {key}: {problem}")]
    Invalid {
        /// Which key.
        key: &'static str,
        /// What is wrong and what is wanted.
        problem: String,
    },
}

impl Config {
    /// Defaults, then `file`, then the environment (`WARREN_SLOTS`, `WARREN_LIMITS__WALL_MS` …), then
    /// `flags`, which holds only what was given on the command line.
    pub fn load(file: Option<&Path>, flags: impl Serialize) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(path) = file {
            if !path.is_file() {
                return Err(ConfigError::Missing(path.to_owned()));
            }
            figment = figment.merge(Toml::file_exact(path));
        }
        let figment = figment
            .merge(Env::prefixed("WARREN_").ignore(&["config", "log"]).split("__"))
            .merge(Serialized::globals(flags));
        let config: Self = figment.extract().map_err(|e| ConfigError::Read(Box::new(e)))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let bad = |key, problem: String| Err(ConfigError::Invalid { key, problem });
        let known = |address: &str| address.starts_with("amqp://") || address.starts_with("amqps://");
        if !self.is_embedded() && !self.addresses().iter().all(|a| known(a)) {
            // Not quoted: it may hold a password.
            return bad(
                "broker",
                "use \"embedded\", or amqp:// or amqps:// addresses separated by commas".into(),
            );
        }
        if self.amqp.certificate.is_some() != self.amqp.key.is_some() {
            return bad("amqp.certificate", "certificate and key are given together or not at all".into());
        }
        if self.retry_delays_ms.is_empty() || self.retry_delays_ms.contains(&0) {
            return bad("retry_delays_ms", "list at least one delay, each at least 1".into());
        }
        if self.limits.memory_mib == 0 || self.limits.memory_mib > 4096 {
            return bad("limits.memory_mib", format!("{}: use 1 to 4096", self.limits.memory_mib));
        }
        if !(64..=65_536).contains(&self.stack_kib) {
            return bad("stack_kib", format!("{}: use 64 to 65536", self.stack_kib));
        }
        if self.limits.table_elements > TABLE_ELEMENTS {
            return bad(
                "limits.table_elements",
                format!("{}: use at most {TABLE_ELEMENTS}", self.limits.table_elements),
            );
        }
        if self.limits.fuel > 0 && !self.count_fuel {
            return bad("limits.fuel", "nothing counts it: set count_fuel = true".into());
        }
        if self.compile_memory_mib == 0 || self.compile_seconds == 0 {
            return bad("compile_memory_mib, compile_seconds", "use at least 1".into());
        }
        if let Err(unknown) = self.device.parse::<DeviceChoice>() {
            return bad("device", unknown.to_string());
        }
        if self.device_memory_mib == 0 || self.device_silence_ms == 0 {
            return bad("device_memory_mib, device_silence_ms", "use at least 1".into());
        }
        let digits = |key: &String| key.len() == 64 && key.bytes().all(|b| b.is_ascii_hexdigit());
        if let Some(key) = self.signers.iter().find(|key| !digits(key)) {
            return bad("signers", format!("{key:?}: a key has 64 hexadecimal digits"));
        }
        if let Some(source) = self.plugins_from.iter().find(|source| !source.contains("@sha256:")) {
            return bad("plugins_from", format!("{source:?}: name it by digest, with @sha256:…"));
        }
        if self.registry.max_mib == 0 || self.registry.seconds == 0 || self.registry.silence_ms == 0 {
            return bad("registry.max_mib, .seconds, .silence_ms", "use at least 1".into());
        }
        if !(0.0..=1.0).contains(&self.rollback.rate) {
            return bad("rollback.rate", format!("{}: use 0 to 1", self.rollback.rate));
        }
        for (name, versions) in &self.versions {
            if versions.pin.is_some() && !versions.weights.is_empty() {
                return bad("versions", format!("{name}: give `pin` or `weights`, not both"));
            }
            if versions.weights.values().any(|&weight| weight > 1_000_000) {
                return bad("versions", format!("{name}: a weight is at most 1000000"));
            }
        }
        if self.responses_queue.is_empty() {
            return bad("responses_queue", "must not be empty".into());
        }
        Ok(())
    }

    /// Whether the broker is the one in this process.
    pub fn is_embedded(&self) -> bool {
        self.broker == EMBEDDED
    }

    /// The broker's addresses.
    pub fn addresses(&self) -> Vec<String> {
        self.broker.split(',').map(|a| a.trim().to_owned()).collect()
    }

    /// Guests that run at a time.
    pub fn slot_count(&self) -> usize {
        match self.slots {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        }
    }

    /// What this host is called: as configured, or the machine's name.
    pub fn host_name(&self) -> String {
        if !self.host_name.is_empty() {
            return self.host_name.clone();
        }
        let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = kernel.trim();
        if name.is_empty() { "unnamed-host".to_owned() } else { name.to_owned() }
    }

    /// Longest drain.
    pub fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }
}

#[cfg(test)]
// The error type of these closures is figment's.
#[allow(clippy::result_large_err)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Flags {
        #[serde(skip_serializing_if = "Option::is_none")]
        slots: Option<usize>,
    }

    #[test]
    fn flag_over_environment_over_file_over_default() {
        figment::Jail::expect_with(|jail| {
            jail.create_file("w.toml", "slots = 2\ndrain_ms = 7\n[limits]\nwall_ms = 5\n")?;
            let path = Path::new("w.toml");
            let load = |flag| Config::load(Some(path), Flags { slots: flag }).expect("loads");
            assert_eq!((load(None).slots, load(None).drain_ms, load(None).limits.wall_ms), (2, 7, 5));
            jail.set_env("WARREN_SLOTS", "3");
            jail.set_env("WARREN_LIMITS__WALL_MS", "9");
            assert_eq!((load(None).slots, load(None).limits.wall_ms), (3, 9));
            assert_eq!(load(Some(4)).slots, 4);
            Ok(())
        });
    }

    #[test]
    fn unknown_keys_are_named_whatever_their_source() {
        figment::Jail::expect_with(|jail| {
            jail.create_file("w.toml", "slotz = 2\n")?;
            let error = Config::load(Some(Path::new("w.toml")), Flags { slots: None }).expect_err("refused");
            assert!(error.to_string().contains("slotz"), "{error}");
            jail.set_env("WARREN_COLOUR", "3");
            let error = Config::load(None, Flags { slots: None }).expect_err("refused");
            assert!(error.to_string().contains("colour"), "{error}");
            Ok(())
        });
    }
}
