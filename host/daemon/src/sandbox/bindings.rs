//! The generated host side of the WIT world `plugin`.
#![allow(missing_docs, clippy::all)]

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "plugin",
    imports: { default: trappable },
    exports: { default: async },
    with: {
        "warren:plugin/tensors.tensor": super::TensorHandle,
        "warren:plugin/jobs.job": super::JobHandle,
    },
});
