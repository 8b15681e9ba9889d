//! What needs no device: parsing, checking, folding, and files made to do harm. Values are checked
//! in the sandbox, on the same fixtures (`tests/data/onnx/ops.json`).

#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;
use prost::Message;

use crate::host::{Data, Host};
use crate::load::{Loaded, load};
use crate::proto;
use crate::types::Type;
use crate::{Dim, LoadError, Model};

fn value_info(name: &str, dims: &[Option<i64>]) -> proto::ValueInfo {
    let dim = dims
        .iter()
        .map(|d| proto::Dimension { dim_value: *d, dim_param: d.is_none().then(|| "n".into()) })
        .collect();
    let tensor_type = Some(proto::TensorType { elem_type: 1, shape: Some(proto::Shape { dim }) });
    proto::ValueInfo { name: name.into(), r#type: Some(proto::Type { tensor_type }) }
}

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> proto::Node {
    proto::Node {
        op_type: op.into(),
        input: inputs.iter().map(|s| (*s).into()).collect(),
        output: outputs.iter().map(|s| (*s).into()).collect(),
        ..Default::default()
    }
}

fn with_int(mut node: proto::Node, name: &str, value: i64) -> proto::Node {
    node.attribute.push(proto::Attribute { name: name.into(), kind: 2, i: value, ..Default::default() });
    node
}

fn int64(name: &str, dims: &[i64], values: &[i64]) -> proto::Tensor {
    proto::Tensor {
        name: name.into(),
        data_type: 7,
        dims: dims.to_vec(),
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

fn float32(name: &str, dims: &[i64], values: &[f32]) -> proto::Tensor {
    proto::Tensor {
        name: name.into(),
        data_type: 1,
        dims: dims.to_vec(),
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..Default::default()
    }
}

/// A model with input `x` [n, 3] and output `y`.
fn model(nodes: Vec<proto::Node>, initializer: Vec<proto::Tensor>) -> proto::Model {
    proto::Model {
        ir_version: 8,
        opset_import: vec![proto::OperatorSetId { domain: String::new(), version: 17 }],
        graph: Some(proto::Graph {
            node: nodes,
            initializer,
            input: vec![value_info("x", &[None, Some(3)])],
            output: vec![value_info("y", &[])],
            ..Default::default()
        }),
    }
}

fn loaded(model: &proto::Model) -> Result<Loaded, LoadError> {
    load(model.encode_to_vec().into())
}

/// The constants left after loading.
fn constants(loaded: &Loaded) -> Vec<&Host> {
    loaded.graph.constants.iter().map(|(_, host)| host.as_ref()).collect()
}

fn operators(loaded: &Loaded) -> Vec<&str> {
    loaded.names.iter().map(|(_, op)| op.as_str()).collect()
}

#[test]
fn inputs_and_outputs_are_told() {
    let model = Model::parse(model(vec![node("Relu", &["x"], &["y"])], vec![]).encode_to_vec()).unwrap();
    let input = &model.inputs()[0];
    assert_eq!((input.name.as_str(), input.ty), ("x", Type::Float32));
    assert_eq!(input.dims, Some(vec![Dim::Symbol("n".into()), Dim::Fixed(3)]));
    assert_eq!(model.outputs()[0].name, "y");
}

#[test]
fn what_depends_on_no_input_is_computed_at_load() {
    let nodes = vec![
        with_int(node("Concat", &["a", "b"], &["joined"]), "axis", 0),
        node("Mul", &["joined", "two"], &["doubled"]),
        node("Slice", &["doubled", "one", "three"], &["part"]),
        node("Reshape", &["x", "part"], &["y"]),
    ];
    let weights = vec![
        int64("a", &[2], &[9, 1]),
        int64("b", &[1], &[-2]),
        int64("two", &[], &[2]),
        int64("one", &[1], &[1]),
        int64("three", &[1], &[3]),
    ];
    let loaded = loaded(&model(nodes, weights)).unwrap();
    assert_eq!(operators(&loaded), ["Reshape"]);
    let expected = Host::new(Type::Int64, vec![2], Data::Int(vec![2, -4]));
    assert_eq!(constants(&loaded), [&expected]);
}

#[test]
fn large_weights_stay_out_of_the_graph_and_unused_ones_are_dropped() {
    let weights = vec![float32("w", &[3], &[1.0, 2.0, 3.0]), float32("unused", &[2], &[1.0, 2.0])];
    let loaded = loaded(&model(vec![node("Add", &["x", "w"], &["y"])], weights)).unwrap();
    assert!(constants(&loaded).is_empty());
    assert_eq!(loaded.graph.weights.len(), 1);
    assert_eq!(loaded.weights[0].len(), 12);
}

#[test]
fn nodes_that_no_output_needs_are_dropped() {
    let nodes = vec![
        node("Exp", &["x"], &["dead"]),
        node("Neg", &["dead"], &["deader"]),
        node("Relu", &["x"], &["y"]),
    ];
    assert_eq!(operators(&loaded(&model(nodes, vec![])).unwrap()), ["Relu"]);
}

#[test]
fn unsorted_nodes_are_sorted_and_a_cycle_is_named() {
    let nodes = vec![node("Neg", &["b"], &["y"]), node("Exp", &["x"], &["a"]), node("Relu", &["a"], &["b"])];
    assert_eq!(operators(&loaded(&model(nodes, vec![])).unwrap()), ["Exp", "Relu", "Neg"]);

    // The first node only hangs off the cycle of the other two.
    let nodes =
        vec![node("Neg", &["b"], &["y"]), node("Add", &["x", "b"], &["a"]), node("Relu", &["a"], &["b"])];
    match loaded(&model(nodes, vec![])).err().unwrap() {
        LoadError::Node { node, problem, .. } => {
            assert!(node == "#1" || node == "#2", "{node}");
            assert!(problem.contains("cycle"), "{problem}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn initializers_may_be_listed_as_inputs() {
    let mut file = model(vec![node("Add", &["x", "w"], &["y"])], vec![float32("w", &[3], &[1.0, 2.0, 3.0])]);
    file.graph.as_mut().unwrap().input.push(value_info("w", &[Some(3)]));
    let loaded = loaded(&file).unwrap();
    assert_eq!(loaded.graph.inputs.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["x"]);
}

#[test]
fn a_constant_that_cannot_be_computed_is_a_load_error() {
    let nodes = vec![node("Reshape", &["w", "s"], &["v"]), node("Add", &["x", "v"], &["y"])];
    let weights = vec![int64("w", &[3], &[1, 2, 3]), int64("s", &[1], &[2])];
    let error = loaded(&model(nodes, weights)).err().unwrap().to_string();
    assert!(error.contains("Reshape") && error.contains("[2]"), "{error}");
}

#[test]
fn sizes_meant_to_exhaust_are_not_computed_at_load() {
    let huge = [4_294_967_295i64, 4_294_967_295];
    for (op, inputs) in [("ConstantOfShape", vec!["s"]), ("Expand", vec!["w", "s"])] {
        let nodes = vec![node(op, &inputs, &["v"]), node("Add", &["x", "v"], &["y"])];
        let weights = vec![int64("s", &[2], &huge), int64("w", &[1], &[1])];
        assert_eq!(
            operators(&loaded(&model(nodes, weights)).unwrap()),
            [op, "Add"],
            "left to the device's budget"
        );
    }
    // No elements, but a loop over the other dimension would not end.
    let nodes = vec![
        node("Transpose", &["e"], &["v"]),
        node("Mul", &["v", "v"], &["u"]),
        node("Add", &["x", "u"], &["y"]),
    ];
    let loaded = loaded(&model(nodes, vec![int64("e", &[4_294_967_295, 0], &[])])).unwrap();
    assert_eq!(operators(&loaded), ["Transpose", "Mul", "Add"]);
}

#[test]
fn the_stored_graph_is_the_same_after_reading_it_back() {
    let nodes = vec![
        node("Shape", &["x"], &["s"]),
        with_int(node("Softmax", &["x"], &["p"]), "axis", -1),
        node("Expand", &["p", "s"], &["y"]),
    ];
    let graph = loaded(&model(nodes, vec![])).unwrap().graph;
    let bytes = postcard::to_stdvec(&graph).unwrap();
    let back: crate::graph::Graph = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(format!("{back:?}"), format!("{graph:?}"));
}

/// Every fixture's file: operators, refusals, all encodings of weights.
fn fixtures() -> serde_json::Value {
    let text = include_str!("../../../tests/data/onnx/ops.json");
    serde_json::from_str(text).unwrap()
}

fn file(case: &serde_json::Value) -> Vec<u8> {
    use base64::Engine;
    base64::prelude::BASE64_STANDARD.decode(case["model"].as_str().unwrap()).unwrap()
}

#[test]
fn every_fixture_loads() {
    let fixtures = fixtures();
    let cases = fixtures["cases"].as_array().unwrap();
    assert!(cases.len() > 250);
    for case in cases {
        if let Err(error) = Model::parse(file(case)) {
            panic!("{}: {error}", case["name"]);
        }
    }
}

#[test]
fn every_bad_fixture_is_refused_with_its_reason() {
    let fixtures = fixtures();
    let cases = fixtures["invalid"].as_array().unwrap();
    assert!(cases.len() > 30);
    for case in cases {
        let Err(error) = Model::parse(file(case)) else { panic!("{} was loaded", case["name"]) };
        let text = error.to_string();
        for word in case["says"].as_array().unwrap() {
            assert!(text.contains(word.as_str().unwrap()), "{}: {text:?} lacks {word}", case["name"]);
        }
    }
}

#[test]
fn every_operator_has_a_fixture() {
    let fixtures = fixtures();
    let cases = fixtures["cases"].as_array().unwrap();
    let names: Vec<&str> = cases.iter().map(|c| c["name"].as_str().unwrap()).collect();
    for operator in crate::ops::names() {
        let prefix = format!("{operator}_");
        assert!(names.iter().any(|n| n.starts_with(&prefix)), "{operator} has none");
    }
}

fn files() -> Vec<Vec<u8>> {
    let fixtures = fixtures();
    fixtures["cases"].as_array().unwrap().iter().map(file).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// Bytes changed, cut out and put in: loading answers, whatever it answers.
    #[test]
    fn mutated_files_never_panic(
        pick in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..6),
    ) {
        thread_local!(static FILES: Vec<Vec<u8>> = files());
        let mut bytes = FILES.with(|files| pick.get(files).clone());
        for (at, value, kind) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = value,
                1 => bytes.insert(at, value),
                2 => { bytes.remove(at); }
                _ => bytes.truncate(at),
            }
        }
        let _ = Model::parse(bytes);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Model::parse(bytes);
    }

    /// Whole models with the numbers that decide shapes replaced by extreme ones.
    #[test]
    fn extreme_constants_never_panic(
        pick in any::<prop::sample::Index>(),
        values in prop::collection::vec(
            prop::sample::select(vec![i64::MIN, i64::MIN + 1, -9, -1, 0, 1, 2, 7, 1 << 31, 1 << 32, i64::MAX]), 1..12),
    ) {
        thread_local!(static MODELS: Vec<proto::Model> =
            files().iter().map(|f| proto::Model::decode(f.as_slice()).unwrap()).collect());
        let mut model = MODELS.with(|models| pick.get(models).clone());
        let mut next = values.iter().copied().cycle();
        let mut replace = |v: &mut i64| *v = next.next().unwrap_or(0);
        let graph = model.graph.as_mut().unwrap();
        for tensor in graph.initializer.iter_mut().filter(|t| t.data_type == 7) {
            let n = tensor.raw_data.len() / 8 + tensor.int64_data.len();
            tensor.raw_data = Default::default();
            tensor.int64_data = vec![0; n];
            tensor.int64_data.iter_mut().for_each(&mut replace);
        }
        for attribute in graph.node.iter_mut().flat_map(|n| &mut n.attribute) {
            attribute.ints.iter_mut().for_each(&mut replace);
            if attribute.kind == 2 && attribute.name != "to" {
                replace(&mut attribute.i);
            }
        }
        // Inputs become constants, so that nodes are folded with those numbers. Only integers can be.
        let inputs = std::mem::take(&mut graph.input);
        for info in inputs {
            let rank = info.r#type.and_then(|t| t.tensor_type).and_then(|t| t.shape).map_or(0, |s| s.dim.len());
            let dims: Vec<i64> = (2..).take(rank).collect();
            let elements = vec![3; dims.iter().product::<i64>() as usize];
            graph.initializer.push(int64(&info.name, &dims, &elements));
        }
        let _ = loaded(&model);
    }
}
