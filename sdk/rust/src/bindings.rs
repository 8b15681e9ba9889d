//! The generated side of the WIT world `plugin`. Everything public is re-exported in a friendlier
//! form by the other modules; reach in here only for what they lack.
#![allow(missing_docs, clippy::all)]

wit_bindgen::generate!({
    path: "wit",
    world: "plugin",
    pub_export_macro: true,
    export_macro_name: "export_plugin",
    generate_all,
});
