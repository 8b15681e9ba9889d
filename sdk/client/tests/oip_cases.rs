//! Bodies as clients send them, right and wrong: what they decode to and what the error says.
#![allow(clippy::unwrap_used, clippy::panic)]

use bytes::Bytes;
use warren_client::oip::{
    Data, Datatype, DecodeError, EncodeError, InferRequest, InferResponse, Parameter, Tensor,
};

fn request(json: &str) -> Result<InferRequest, DecodeError> {
    InferRequest::decode(&Bytes::copy_from_slice(json.as_bytes()), Some("application/json"), None)
}

fn error(json: &str) -> String {
    request(json).unwrap_err().to_string()
}

/// One input of that type, shape and data.
fn input(datatype: &str, shape: &str, data: &str) -> String {
    format!(r#"{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":{shape},"data":{data}}}]}}"#)
}

fn raw(json: &str) -> Vec<u8> {
    match &request(json).unwrap().inputs[0].data {
        Data::Raw(raw) => raw.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_example_of_the_specification() {
    let decoded = request(
        r#"{"id":"42","parameters":{"p":1,"q":"text","r":true,"s":0.5,"gone":null},"unknown":{"a":[1,{}]},
            "inputs":[{"name":"input0","shape":[2,2],"datatype":"UINT32","data":[1,2,3,4]},
                      {"name":"input1","shape":[3],"datatype":"BOOL","data":[true,false,true],"extra":1}],
            "outputs":[{"name":"output0","parameters":{"binary_data":false}}]}"#,
    )
    .unwrap();
    assert_eq!(decoded.id.as_deref(), Some("42"));
    let parameters: Vec<_> = decoded.parameters.iter().cloned().collect();
    let expected = [("p", Parameter::Int(1)), ("q", "text".into()), ("r", true.into()), ("s", 0.5.into())];
    assert_eq!(parameters, expected.map(|(n, v)| (n.to_owned(), v)));
    assert_eq!(decoded.inputs[0].shape, [2, 2]);
    assert_eq!(decoded.inputs[0].data, Data::Raw([1u32, 2, 3, 4].map(u32::to_le_bytes).concat().into()));
    assert_eq!(decoded.inputs[1].data, Data::Raw(Bytes::from_static(&[1, 0, 1])));
    assert_eq!(decoded.outputs[0].name, "output0");
    assert_eq!(decoded.outputs[0].parameters.bool("binary_data"), Some(false));
}

#[test]
fn nested_data_agrees_with_flat_data() {
    let flat = raw(&input("INT16", "[2,3]", "[1,-2,3,4,5,6]"));
    assert_eq!(raw(&input("INT16", "[2,3]", " [ [1, -2,3] , [4,5,6]\n] ")), flat);
    assert_eq!(raw(&input("INT16", "[2,3,1]", "[[[1],[-2],[3]],[[4],[5],[6]]]")), flat);
    assert_eq!(raw(&input("FP64", "[]", "[2.5]")), 2.5f64.to_le_bytes());
    for (shape, data) in [("[0]", "[]"), ("[2,0]", "[[],[]]"), ("[2,0]", "[]"), ("[0,7]", "[]")] {
        assert_eq!(raw(&input("INT16", shape, data)), [0u8; 0], "{shape} {data}");
    }
}

#[test]
fn integers_are_exact_and_checked() {
    assert_eq!(raw(&input("UINT64", "[1]", "[18446744073709551615]")), u64::MAX.to_le_bytes());
    assert_eq!(raw(&input("UINT64", "[1]", "[9007199254740993]")), 9_007_199_254_740_993u64.to_le_bytes());
    assert_eq!(raw(&input("INT64", "[1]", "[-9223372036854775808]")), i64::MIN.to_le_bytes());
    assert_eq!(raw(&input("UINT8", "[1]", "[-0]")), [0]);
    for (datatype, value) in [
        ("UINT64", "18446744073709551616"),
        ("INT64", "9223372036854775808"),
        ("INT64", "-9223372036854775809"),
        ("INT64", "100000000000000000000000000000000000000000000"),
        ("UINT8", "256"),
        ("UINT8", "-1"),
        ("INT8", "128"),
        ("INT32", "1.5"),
        ("INT32", "1e2"),
        ("INT32", "\"1\""),
        ("INT32", "true"),
        ("INT32", "null"),
        ("INT32", "{}"),
        ("FP32", "1e39"),
        ("FP64", "1e400"),
        ("FP32", "\"1\""),
        ("FP32", "{\"a\":[1]}"),
        ("BOOL", "1"),
        ("BYTES", "1"),
        ("FP16", "1"),
        ("BF16", "1"),
    ] {
        let text = error(&input(datatype, "[1]", &format!("[{value}]")));
        assert!(text.starts_with("input \"x\" at inputs[0].data"), "{datatype} {value}: {text}");
    }
    assert_eq!(
        error(&input("UINT8", "[2,2]", "[[1,2],[3,300]]")),
        "input \"x\" at inputs[0].data[1][1]: 300 is outside UINT8, 0 to 255"
    );
}

#[test]
fn floats_round_once() {
    // Just below halfway between two floats; through a double it would land on halfway and round up.
    let below = raw(&input("FP32", "[1]", "[1.00000017881393432617187499]"));
    assert_eq!(below, (1.0 + f32::EPSILON).to_le_bytes());
    assert_eq!(
        raw(&input("FP32", "[3]", "[-0.0,1,1e-50]")),
        [-0.0f32, 1.0, 0.0].map(f32::to_le_bytes).concat()
    );
}

#[test]
fn shapes_are_checked_against_the_data() {
    for (shape, data, expected) in [
        ("[2,2]", "[1,2,3]", "inputs[0].data: 3 elements, and shape [2, 2] has 4"),
        ("[2,2]", "[1,2,3,4,5]", "inputs[0].data: more elements, and shape [2, 2] has 4"),
        ("[2,2]", "[[1,2],[3]]", "inputs[0].data[1]: 1 elements, and dimension 1 of shape [2, 2] has 2"),
        ("[2,2]", "[[1,2]]", "inputs[0].data: 1 elements, and dimension 0 of shape [2, 2] has 2"),
        (
            "[2,2]",
            "[[1,2],[3,4],[5,6]]",
            "inputs[0].data: more elements, and dimension 0 of shape [2, 2] has 2",
        ),
        ("[2,2]", "[[1,2],[3,4,5]]", "inputs[0].data[1]: more elements, and dimension 1"),
        ("[2,2]", "[1,[2,3],4]", "inputs[0].data[1]: an array among numbers"),
        ("[2,2]", "[[1,2],3]", "inputs[0].data[1]: 3 stands where shape [2, 2] has an array"),
        ("[2,2]", "[[[1],2],3]", "inputs[0].data[0][0]: arrays are nested deeper than shape [2, 2]"),
        ("[4]", "[[1,2],[3,4]]", "inputs[0].data: arrays within the array, and shape [4] has 1 dimensions"),
        ("[]", "[[1]]", "inputs[0].data: arrays within the array, and shape [] has 0 dimensions"),
        ("[]", "[]", "inputs[0].data: 0 elements, and shape [] has 1"),
        ("[1]", "7", "inputs[0].data: 7 is not an array"),
        ("[1]", "\"AAAA\"", "inputs[0].data: \"AAAA\" is not an array"),
        (
            "[4294967296,4294967296]",
            "[1]",
            "inputs[0].shape: INT32 of shape [4294967296, 4294967296] has more than 2^64",
        ),
        ("[9223372036854775807]", "[1]", "inputs[0].shape: INT32 of shape"),
        ("[4000000000000]", "[1]", "inputs[0].data: 1 elements, and shape [4000000000000] has 4000000000000"),
    ] {
        let text = error(&input("INT32", shape, data));
        assert!(text.contains(expected), "{shape} {data}: {text}");
    }
}

#[test]
fn the_place_of_a_mistake_is_named() {
    for (json, expected) in [
        ("", "the body is not JSON: EOF"),
        ("RIFF....WAVE", "the body is not JSON: expected value at line 1 column 1"),
        ("[]", "body: invalid type: sequence, expected an object"),
        ("7", "body: invalid type: integer `7`, expected an object"),
        ("{}", "body: \"inputs\" is missing"),
        (r#"{"inputs":{}}"#, "inputs: invalid type: map, expected an array of tensors"),
        (r#"{"inputs":[7]}"#, "inputs[0]: invalid type: integer `7`, expected an object"),
        (r#"{"inputs":[["x","FP32"]]}"#, "inputs[0]: invalid type: sequence, expected an object"),
        (r#"{"inputs":[],"inputs":[]}"#, "duplicate field `inputs`"),
        (r#"{"id":7,"inputs":[]}"#, "id: invalid type: integer `7`, expected a string"),
        (r#"{"inputs":[{"datatype":"FP32","shape":[1],"data":[1]}]}"#, "inputs[0].name: is missing"),
        (
            r#"{"inputs":[{"name":"","datatype":"FP32","shape":[1],"data":[1]}]}"#,
            "inputs[0].name: has 0 bytes",
        ),
        (r#"{"inputs":[{"name":"x","shape":[1],"data":[1]}]}"#, "inputs[0].datatype: is missing"),
        (r#"{"inputs":[{"name":"x","datatype":"FP32","data":[1]}]}"#, "inputs[0].shape: is missing"),
        (r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1]}]}"#, "inputs[0]: has no data"),
        (
            r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[-1],"data":[]}]}"#,
            "inputs[0].shape[0]: invalid value: integer `-1`",
        ),
        (
            r#"{"inputs":[{"name":"x","datatype":"float","shape":[1],"data":[]}]}"#,
            "inputs[0].datatype: invalid value: string \"float\", expected a data type, one of BOOL, UINT8",
        ),
        (
            r#"{"parameters":{"a":[1]},"inputs":[]}"#,
            "parameters.a: invalid type: sequence, expected a boolean, a number or a string",
        ),
        (r#"{"parameters":{"a":1,"a":2},"inputs":[]}"#, "parameter \"a\" is given twice"),
        (
            r#"{"parameters":{"a":18446744073709551615},"inputs":[]}"#,
            "parameters.a: 18446744073709551615 is above",
        ),
        (r#"{"inputs":[],"outputs":[{"name":"a"},{"name":"a"}]}"#, "outputs[1].name: \"a\" is given twice"),
        (
            r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[NaN]}]}"#,
            "the body is not JSON: expected value",
        ),
        (r#"{"inputs":[]} x"#, "the body is not JSON: trailing characters"),
    ] {
        let text = error(json);
        assert!(text.contains(expected), "{json}\n  {text}");
    }
    let twice = r#"{"name":"x","datatype":"FP32","shape":[1],"data":[1]}"#;
    let text = error(&format!(r#"{{"inputs":[{twice},{twice}]}}"#));
    assert_eq!(text, "inputs[1].name: \"x\" is given twice");
    let long = "n".repeat(256);
    let text =
        error(&format!(r#"{{"inputs":[{{"name":"{long}","datatype":"FP32","shape":[1],"data":[1]}}]}}"#));
    assert_eq!(text, "inputs[0].name: has 256 bytes, and 1 to 255 are allowed");
    let many = vec!["{}"; 1025].join(",");
    assert!(error(&format!(r#"{{"inputs":[{many}]}}"#)).contains("more than 1024 entries"));
}

#[test]
fn a_body_of_another_kind_is_told_apart_by_its_content_type() {
    let mp3 = Bytes::from_static(b"ID3\x04\xff\xfb");
    let text = InferRequest::decode(&mp3, Some("audio/mpeg"), None).unwrap_err().to_string();
    assert!(text.contains("not UTF-8") && text.contains("\"audio/mpeg\""), "{text}");
    // Spring's default for a byte array: the body decides, not the type.
    let body = Bytes::from_static(br#"{"inputs":[]}"#);
    assert!(InferRequest::decode(&body, Some("application/octet-stream"), None).is_ok());
}

#[test]
fn messages_stay_short_whatever_was_sent() {
    let long = "9".repeat(100_000);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let shape = format!("[{}1]", "7,".repeat(100_000));
    for json in [
        input("INT32", "[1]", &format!("[{long}]")),
        input("INT32", "[1]", &format!("\"{long}\"")),
        input(&long, "[1]", "[]"),
        input("INT32", &shape, "[]"),
        input("INT32", "[1]", &deep),
        input("INT32", "[1,1,1,1]", &deep),
        format!(r#"{{"parameters":{{"{long}":1}}}}"#),
        format!(r#"{{"id":7,"{long}":"{long}"}}"#),
        deep.clone(),
        format!(r#"{{"inputs":{deep}}}"#),
        format!(r#"{{"parameters":{{"a":{deep}}}}}"#),
    ] {
        let text = error(&json);
        assert!(text.len() < 1000, "{} bytes: {}", text.len(), &text[..200]);
    }
    // Where nothing reads it, depth does no harm.
    assert!(request(&format!(r#"{{"inputs":[],"later":{deep}}}"#)).is_ok());
}

#[test]
fn text_elements_are_unescaped() {
    let decoded = request(&input("BYTES", "[2,2]", r#"[["a\n\u00e9","ü"],["","\\\""]]"#)).unwrap();
    let expected = ["a\né", "ü", "", "\\\""].map(|s| Bytes::copy_from_slice(s.as_bytes()));
    assert_eq!(decoded.inputs[0].data, Data::Strings(expected.to_vec()));
    assert!(error(&input("BYTES", "[1]", r#"["\ud800"]"#)).contains("inputs[0].data[0]: not a valid string"));
}

#[test]
fn binary_tensors_follow_the_header_in_order() {
    let header = r#"{"inputs":[{"name":"a","datatype":"FP16","shape":[2],"parameters":{"binary_data_size":4}},
        {"name":"b","datatype":"INT8","shape":[1],"data":[-1]},
        {"name":"c","datatype":"BYTES","shape":[2],"parameters":{"binary_data_size":11,"k":"v"}}]}"#;
    let tail = b"\x01\x02\x03\x04\x03\0\0\0abc\0\0\0\0";
    let body = Bytes::from([header.as_bytes(), tail].concat());
    let length = Some(header.len() as u64);
    let decoded = InferRequest::decode(&body, Some("application/octet-stream"), length).unwrap();
    assert_eq!(decoded.inputs[0].data, Data::Raw(Bytes::from_static(b"\x01\x02\x03\x04")));
    assert!(decoded.inputs[0].parameters.is_empty());
    assert_eq!(decoded.inputs[2].data, Data::Strings(vec![Bytes::from_static(b"abc"), Bytes::new()]));
    assert_eq!(decoded.inputs[2].parameters.text("k"), Some("v"));
    let Data::Raw(raw) = &decoded.inputs[0].data else { panic!() };
    assert_eq!(raw.as_ptr(), body[header.len()..].as_ptr(), "the data is a slice of the body");

    for cut in [0, 1, tail.len() - 1] {
        let short = body.slice(..header.len() + cut);
        let text = InferRequest::decode(&short, None, length).unwrap_err().to_string();
        assert!(text.starts_with(&format!("the binary part has {cut} bytes")), "{text}");
    }
    let long = Bytes::from([&body[..], b"x"].concat());
    let text = InferRequest::decode(&long, None, length).unwrap_err().to_string();
    assert_eq!(text, "the binary part has 16 bytes, and the tensors' binary_data_size add up to 15");
    for bad in [0, body.len() as u64 + 1, u64::MAX] {
        assert!(matches!(
            InferRequest::decode(&body, None, Some(bad)).unwrap_err(),
            DecodeError::HeaderLength { header, .. } if header == bad
        ));
    }
}

#[test]
fn binary_data_is_checked_against_the_shape() {
    let decode = |datatype: &str, shape: &str, tail: &[u8], more: &str| {
        let header = format!(
            r#"{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":{shape},"parameters":{{"binary_data_size":{}{more}}}}}]}}"#,
            tail.len()
        );
        let body = Bytes::from([header.as_bytes(), tail].concat());
        InferRequest::decode(&body, None, Some(header.len() as u64)).map_err(|e| e.to_string())
    };
    let e = decode("FP32", "[2]", &[0; 7], "").unwrap_err();
    assert_eq!(e, "input \"x\" at inputs[0]: FP32 of shape [2] takes 8 bytes, and binary_data_size is 7");
    assert!(decode("BOOL", "[2]", &[1, 2], "").unwrap_err().contains("byte 1 of BOOL data is 2"));
    assert!(decode("BYTES", "[1]", &[1, 0, 0], "").unwrap_err().contains("no room for its 4-byte length"));
    let e = decode("BYTES", "[1]", &[9, 0, 0, 0, 1], "").unwrap_err();
    assert!(e.contains("element 0 has length 9, and 1 bytes are left"), "{e}");
    assert!(
        decode("BYTES", "[2]", &[0, 0, 0, 0], "").unwrap_err().contains("1 elements, and shape [2] has 2")
    );
    assert!(decode("BYTES", "[1]", &[0; 8], "").unwrap_err().contains("more elements than the 1"));
    let e = decode("INT8", "[1]", &[0], r#","dataref":"file:x""#).unwrap_err();
    assert!(e.contains("in more than one way"), "{e}");
    let body = Bytes::from_static(
        br#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":-4}}]}"#,
    );
    let e = InferRequest::decode(&body, None, None).unwrap_err().to_string();
    assert_eq!(
        e,
        "input \"x\" at inputs[0].parameters.binary_data_size: is not a number of bytes, 0 or more"
    );
}

#[test]
fn references_carry_no_data() {
    let sent = InferRequest {
        inputs: vec![Tensor::reference("audio", "https://store/a.wav", Some("ab"))],
        ..InferRequest::default()
    };
    for binary in [false, true] {
        let (body, header) = sent.encode(binary).unwrap();
        let got = InferRequest::decode(&body, None, header.map(|h| h as u64)).unwrap();
        assert_eq!(got, sent);
        assert_eq!(got.inputs[0].parameters.text("dataref"), Some("https://store/a.wav"));
    }
}

#[test]
fn what_json_cannot_say_is_refused_when_encoding() {
    let response = |tensor: Tensor| InferResponse {
        model_name: "m".to_owned(),
        outputs: vec![tensor],
        ..InferResponse::default()
    };
    for tensor in [
        Tensor::fp32("y", &[2], &[1.0, f32::NAN]),
        Tensor::fp32("y", &[1], &[f32::NEG_INFINITY]),
        Tensor::raw("y", Datatype::Fp64, &[1], f64::INFINITY.to_le_bytes().to_vec()),
        Tensor::raw("y", Datatype::Fp16, &[1], vec![0, 0]),
        Tensor::raw("y", Datatype::Bf16, &[1], vec![0, 0]),
        Tensor::bytes("y", vec![0xff]),
    ] {
        let response = response(tensor);
        assert!(response.needs_binary());
        let error = response.encode(false).unwrap_err();
        assert!(matches!(error, EncodeError::NeedsBinary { .. }), "{error}");
        let (body, header) = response.encode(true).unwrap();
        // NaN is not equal to itself, so bytes are compared.
        let again = InferResponse::decode(&body, None, header.map(|h| h as u64)).unwrap();
        assert_eq!(again.encode(true).unwrap().0, body);
    }
    let text = response(Tensor::fp32("y", &[2], &[1.0, f32::NAN])).encode(false).unwrap_err().to_string();
    assert_eq!(text, "tensor \"y\": element 1, NaN, has no JSON form: encode it with binary tensor data");
    assert!(!response(Tensor::fp32("y", &[1], &[1.0])).needs_binary());
    for wrong in [
        Tensor::fp32("y", &[3], &[1.0, 2.0]),
        Tensor::fp32("y", &[u64::MAX], &[1.0]),
        Tensor::strings("y", &[2], vec![Bytes::new()]),
        Tensor { datatype: Datatype::Fp32, ..Tensor::bytes("y", "x") },
        Tensor { datatype: Datatype::Bytes, ..Tensor::fp32("y", &[1], &[1.0]) },
    ] {
        for binary in [false, true] {
            let error = response(wrong.clone()).encode(binary).unwrap_err();
            assert!(matches!(error, EncodeError::Shape { .. }), "{error}");
        }
    }
}

#[test]
fn the_json_form_is_the_specified_one() {
    let mut sent = InferResponse {
        model_name: "echo".to_owned(),
        model_version: Some("1".to_owned()),
        id: Some("j\"1".to_owned()),
        outputs: vec![Tensor::fp32("y", &[1, 2], &[0.1, 2.0]), Tensor::bytes("t", "hi")],
        ..InferResponse::default()
    };
    sent.parameters.set("p", 1i64.into());
    assert_eq!(
        std::str::from_utf8(&sent.encode(false).unwrap().0).unwrap(),
        r#"{"model_name":"echo","model_version":"1","id":"j\"1","parameters":{"p":1},"outputs":[{"name":"y","shape":[1,2],"datatype":"FP32","data":[0.1,2.0]},{"name":"t","shape":[1],"datatype":"BYTES","data":["hi"]}]}"#
    );
    let (body, header) = sent.encode(true).unwrap();
    let header = header.unwrap();
    assert_eq!(
        std::str::from_utf8(&body[..header]).unwrap(),
        r#"{"model_name":"echo","model_version":"1","id":"j\"1","parameters":{"p":1},"outputs":[{"name":"y","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}},{"name":"t","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":6}}]}"#
    );
    assert_eq!(body.len() - header, 14);
}
