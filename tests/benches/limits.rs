//! What all limits together cost a guest that only computes: the same component as the host runs it
//! (epochs, limiter, counted host calls, clocks, pooled memory) beside wasmtime with none of that.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use warren::config::Limits;
use warren::folder::Folder;
use warren::sandbox::{Compiled, Sandbox, SandboxConfig, SandboxError};
use warren_tensor::{Engine, EngineConfig};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, ResourceTable, ResourceType, Val};
use wasmtime::{Config, Store, WasmFeatures};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

/// Paired: one after the other, so that a slow spell of the machine meets both.
const ROUNDS: usize = 9;

/// Nanoseconds by kernel, as the guest measures them.
type Times = BTreeMap<String, f64>;

fn times(text: &str) -> Result<Times> {
    let mut times = Times::new();
    for line in text.lines() {
        let (name, time) = line.split_once(' ').with_context(|| format!("no time in {line:?}"))?;
        times.insert(name.to_owned(), time.parse()?);
    }
    Ok(times)
}

struct Bare {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for Bare {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// An engine of the same code generator and features, without a limit. `EPOCHS=1` has it look at epochs
/// nevertheless, which tells what of the whole is theirs.
fn bare() -> Result<wasmtime::Engine> {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .wasm_features(WasmFeatures::GC | WasmFeatures::THREADS | WasmFeatures::CM_ASYNC, false)
        .wasm_relaxed_simd(true)
        .relaxed_simd_deterministic(true)
        .concurrency_support(false)
        .epoch_interruption(std::env::var_os("EPOCHS").is_some());
    Ok(wasmtime::Engine::new(&config)?)
}

struct Tensor;
struct Job;

/// What the component imports of Warren, which `prepare` never calls.
fn warren_stubs(linker: &mut Linker<Bare>, component: &Component) -> Result<()> {
    let engine = component.engine();
    for (interface, import) in component.component_type().imports(engine) {
        let ComponentItem::ComponentInstance(instance) = import.ty else { continue };
        if !interface.starts_with("warren:") {
            continue;
        }
        let mut stub = linker.instance(interface)?;
        for (name, item) in instance.exports(engine) {
            match item.ty {
                ComponentItem::Resource(_) if name == "job" => {
                    stub.resource(name, ResourceType::host::<Job>(), |_, _| Ok(()))?;
                }
                ComponentItem::Resource(_) => {
                    stub.resource(name, ResourceType::host::<Tensor>(), |_, _| Ok(()))?;
                }
                ComponentItem::ComponentFunc(_) => {
                    stub.func_new(name, |_, _, _, _| Err(wasmtime::Error::msg("not in this bench")))?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

async fn run_bare(component: &Component, linker: &Linker<Bare>) -> Result<Times> {
    let bare = Bare { wasi: WasiCtx::builder().build(), table: ResourceTable::new() };
    let mut store = Store::new(component.engine(), bare);
    if std::env::var_os("EPOCHS").is_some() {
        store.set_epoch_deadline(1 << 40);
    }
    let instance = linker.instantiate_async(&mut store, component).await?;
    let prepare = instance.get_func(&mut store, "prepare").context("no export `prepare`")?;
    let mut answer = [Val::Bool(false)];
    prepare.call_async(&mut store, &[], &mut answer).await?;
    if let [Val::Result(Err(Some(failure)))] = &answer
        && let Val::Variant(_, Some(text)) = failure.as_ref()
        && let Val::String(text) = text.as_ref()
    {
        return times(text);
    }
    bail!("`prepare` answered {answer:?}")
}

async fn run_limited(sandbox: &Sandbox, compiled: &Compiled, folder: &Arc<Folder>) -> Result<Times> {
    let run = sandbox.prepare("kernels@0".into(), compiled.clone(), Limits::default(), Arc::clone(folder));
    match run.await {
        Err(SandboxError::Prepare { failure, .. }) => times(&failure.text),
        Err(error) => Err(error.into()),
        Ok(_) => bail!("`prepare` said nothing"),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(compare())
}

async fn compare() -> Result<()> {
    let guest = PathBuf::from(env!("WARREN_GUESTS")).join("kernels");
    let bytes = std::fs::read(guest.join("kernels.wasm"))?;
    let engine = bare()?;
    let component = Component::new(&engine, &bytes)?;
    let mut linker = Linker::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    warren_stubs(&mut linker, &component)?;

    let tensors = Arc::new(Engine::new(EngineConfig { threads: 1, ..EngineConfig::default() })?);
    let sandbox = Sandbox::new(&SandboxConfig::default(), tensors)?;
    let compiled = sandbox.compile("kernels", &bytes)?;
    let folder = Arc::new(Folder::open(&guest)?);

    let mut figures = BTreeMap::<String, (Vec<f64>, Vec<f64>, Vec<f64>)>::new();
    for round in 0..=ROUNDS {
        let without = run_bare(&component, &linker).await?;
        let with = run_limited(&sandbox, &compiled, &folder).await?;
        for (kernel, without) in without {
            let with = *with.get(&kernel).with_context(|| format!("no {kernel}"))?;
            // The first warms both up.
            if round > 0 {
                let (of_bare, of_limited, ratios) = figures.entry(kernel).or_default();
                of_bare.push(without / 1e6);
                of_limited.push(with / 1e6);
                ratios.push(with / without);
            }
        }
    }
    println!("All limits together, on guests that only compute (medians of {ROUNDS} pairs):");
    println!("{:<10} {:>14} {:>14} {:>8}  aim", "kernel", "without, ms", "with, ms", "ratio");
    for (kernel, (without, with, ratios)) in figures {
        let (without, with, ratio) = (median(without), median(with), median(ratios));
        println!("{kernel:<10} {without:>14.1} {with:>14.1} {ratio:>8.3}  under 1.10");
    }
    Ok(())
}
