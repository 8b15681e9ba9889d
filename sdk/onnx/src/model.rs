//! A loaded model: parsed from a file, or restored from what `prepare` stored.

use std::cell::OnceCell;

use prost::bytes::Bytes;
use warren_sdk::{Failure, Tensor, assets};

use crate::error::{LoadError, OpError, RunError};
use crate::graph::{Dim, Graph, ValueInfo, WeightInfo};
use crate::load::{Loaded, load};
use crate::run;

/// A model that is ready to run.
pub struct Model {
    pub(crate) graph: Graph,
    pub(crate) weights: Vec<Weight>,
    names: Names,
}

/// Name and operator of every node; only error messages need them.
enum Names {
    Known(Vec<(String, String)>),
    /// In this asset.
    Stored(String),
}

enum Source {
    Bytes(Bytes),
    Asset(String),
}

/// A constant and, once something needed it, its handle.
pub(crate) struct Weight {
    source: Source,
    handle: OnceCell<Tensor>,
}

impl Weight {
    pub(crate) fn tensor(&self, info: &WeightInfo) -> Result<&Tensor, RunError> {
        if let Some(tensor) = self.handle.get() {
            return Ok(tensor);
        }
        let tensor = match &self.source {
            Source::Bytes(bytes) => Tensor::from_bytes(info.ty.device(), &info.dims, bytes)?,
            Source::Asset(name) => assets::tensor(name).map_err(|e| RunError::Asset(e.to_string()))?,
        };
        Ok(self.handle.get_or_init(|| tensor))
    }
}

fn graph_asset(name: &str) -> String {
    format!("{name}/graph")
}

fn names_asset(name: &str) -> String {
    format!("{name}/names")
}

fn weight_asset(name: &str, index: usize) -> String {
    format!("{name}/{index}")
}

impl Model {
    /// Reads and checks an ONNX file (opsets 7 to 21 of the default domain). Everything that can
    /// be known without inputs is checked: operators, their attributes and input counts, the order
    /// of the nodes, the size of every weight. Never panics, whatever the bytes are.
    pub fn parse(file: impl Into<Vec<u8>>) -> Result<Self, LoadError> {
        let Loaded { graph, weights, names } = load(Bytes::from(file.into()))?;
        let weights = weights
            .into_iter()
            .map(|bytes| Weight { source: Source::Bytes(bytes), handle: OnceCell::new() })
            .collect();
        Ok(Self { graph, weights, names: Names::Known(names) })
    }

    /// Keeps the model as assets whose names start with `name/`: a tensor for each weight, and the
    /// graph as bytes. Only in `prepare`.
    pub fn store(&self, name: &str) -> Result<(), Failure> {
        for (index, (weight, info)) in self.weights.iter().zip(&self.graph.weights).enumerate() {
            assets::put_tensor(&weight_asset(name, index), weight.tensor(info)?)?;
        }
        let encode =
            |e: postcard::Error| Failure::Failed(format!("the model {name:?} cannot be stored: {e}"));
        assets::put_bytes(&graph_asset(name), &postcard::to_stdvec(&self.graph).map_err(encode)?)?;
        let names = match &self.names {
            Names::Known(names) => postcard::to_stdvec(names).map_err(encode)?,
            Names::Stored(asset) => assets::bytes(asset)?,
        };
        assets::put_bytes(&names_asset(name), &names)
    }

    /// The model that [`Model::store`] kept as `name`. Cheap: weights stay where they are.
    pub fn restore(name: &str) -> Result<Self, Failure> {
        let bytes = assets::bytes(&graph_asset(name))?;
        let graph: Graph = postcard::from_bytes(&bytes)
            .map_err(|e| Failure::Failed(format!("the stored model {name:?} cannot be read: {e}")))?;
        let weights = (0..graph.weights.len())
            .map(|index| Weight { source: Source::Asset(weight_asset(name, index)), handle: OnceCell::new() })
            .collect();
        Ok(Self { graph, weights, names: Names::Stored(names_asset(name)) })
    }

    /// What the model has to be given, in the file's order.
    pub fn inputs(&self) -> &[ValueInfo] {
        &self.graph.inputs
    }

    /// What the model can answer, in the file's order.
    pub fn outputs(&self) -> &[ValueInfo] {
        &self.graph.outputs
    }

    /// Runs the model on all of its inputs and answers the outputs called `wanted`, in that order,
    /// computed. Bool inputs and outputs are uint8 tensors of 0 and 1. What only other outputs need
    /// is not computed.
    pub fn run(&self, inputs: &[(&str, &Tensor)], wanted: &[&str]) -> Result<Vec<Tensor>, RunError> {
        run::run(self, inputs, wanted)
    }

    pub(crate) fn node_error(&self, index: usize, problem: OpError) -> RunError {
        let stored;
        let names = match &self.names {
            Names::Known(names) => names.as_slice(),
            Names::Stored(asset) => {
                let bytes = assets::bytes(asset).unwrap_or_default();
                stored = postcard::from_bytes::<Vec<(String, String)>>(&bytes).unwrap_or_default();
                stored.as_slice()
            }
        };
        let (node, operator) =
            names.get(index).cloned().unwrap_or_else(|| (format!("#{index}"), "unknown".into()));
        let fixed = |dims: &Vec<Dim>| dims.iter().all(|d| matches!(d, Dim::Fixed(_)));
        let free_shapes = self.graph.inputs.iter().any(|i| !i.dims.as_ref().is_some_and(fixed));
        RunError::Node { node, operator, problem, free_shapes }
    }
}
