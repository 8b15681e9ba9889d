//! For all requests: what is written is read back the same. For all bytes: an answer, never a panic.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;
use warren_client::oip::{
    Data, Datatype, InferRequest, InferResponse, Parameter, Parameters, RequestedOutput, Tensor,
};

fn finite(datatype: Datatype, mut raw: Vec<u8>) -> Vec<u8> {
    match datatype {
        Datatype::Bool => raw.iter_mut().for_each(|b| *b &= 1),
        // Clearing an exponent bit leaves every other value possible.
        Datatype::Fp32 => raw.chunks_mut(4).for_each(|c| c[3] &= 0xbf),
        Datatype::Fp64 => raw.chunks_mut(8).for_each(|c| c[7] &= 0xbf),
        _ => {}
    }
    raw
}

fn tensor(json: bool) -> impl Strategy<Value = Tensor> {
    let types: Vec<_> = Datatype::ALL
        .into_iter()
        .filter(|t| !json || !matches!(t, Datatype::Fp16 | Datatype::Bf16))
        .collect();
    (prop::sample::select(types), prop::collection::vec(0u64..4, 0..4), parameters()).prop_flat_map(
        move |(datatype, shape, parameters)| {
            let count = shape.iter().product::<u64>() as usize;
            let data = match datatype.size() {
                Some(size) => prop::collection::vec(any::<u8>(), count * size)
                    .prop_map(move |raw| Data::Raw(Bytes::from(finite(datatype, raw))))
                    .boxed(),
                None if json => prop::collection::vec(any::<String>(), count)
                    .prop_map(|s| Data::Strings(s.into_iter().map(Bytes::from).collect()))
                    .boxed(),
                None => prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), count)
                    .prop_map(|s| Data::Strings(s.into_iter().map(Bytes::from).collect()))
                    .boxed(),
            };
            (data, any::<bool>()).prop_map(move |(data, reference)| {
                let mut parameters = parameters.clone();
                // Now and then a reference instead of data.
                let data = if reference && parameters.len() > 1 {
                    parameters.set("dataref", "https://store/object".into());
                    Data::None
                } else {
                    data
                };
                Tensor { name: String::new(), datatype, shape: shape.clone(), parameters, data }
            })
        },
    )
}

fn parameters() -> impl Strategy<Value = Parameters> {
    let value = prop_oneof![
        any::<bool>().prop_map(Parameter::Bool),
        any::<i64>().prop_map(Parameter::Int),
        (-1e300f64..1e300).prop_map(Parameter::Float),
        any::<String>().prop_map(Parameter::Text),
    ];
    prop::collection::vec(("[a-z\"\\\\é]{0,4}", value), 0..3).prop_map(|p| p.into_iter().collect())
}

fn request(json: bool) -> impl Strategy<Value = InferRequest> {
    let outputs = prop::collection::hash_map("[a-z]{1,5}", parameters(), 0..3);
    (prop::option::of(any::<String>()), parameters(), prop::collection::vec(tensor(json), 0..4), outputs)
        .prop_map(|(id, parameters, mut inputs, outputs)| {
            for (i, input) in inputs.iter_mut().enumerate() {
                input.name = format!("in \"{i}\"");
            }
            let outputs =
                outputs.into_iter().map(|(name, parameters)| RequestedOutput { name, parameters }).collect();
            InferRequest { id, parameters, inputs, outputs }
        })
}

fn response_of(request: InferRequest) -> InferResponse {
    InferResponse {
        model_name: request.id.clone().unwrap_or_default(),
        model_version: request.id.clone(),
        id: request.id,
        parameters: request.parameters,
        outputs: request.inputs,
    }
}

/// A valid body with some bytes overwritten, dropped or doubled.
fn mutated(mut body: Vec<u8>, edits: &[(prop::sample::Index, u8, u8)]) -> Bytes {
    const INTERESTING: &[u8] = b"[]{}\",:0-9eE.+\\unft \0\xff";
    for (at, how, byte) in edits {
        if body.is_empty() {
            break;
        }
        let at = at.index(body.len());
        let byte = INTERESTING[*byte as usize % INTERESTING.len()];
        match how % 3 {
            0 => body[at] = byte,
            1 => drop(body.remove(at)),
            _ => body.insert(at, byte),
        }
    }
    Bytes::from(body)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn json_round_trips(sent in request(true)) {
        let (body, header) = sent.encode(false).unwrap();
        prop_assert_eq!(header, None);
        prop_assert_eq!(&InferRequest::decode(&body, None, None).unwrap(), &sent);
        let sent = response_of(sent);
        let (body, _) = sent.encode(false).unwrap();
        prop_assert_eq!(InferResponse::decode(&body, None, None).unwrap(), sent);
    }

    #[test]
    fn binary_round_trips(sent in request(false)) {
        let (body, header) = sent.encode(true).unwrap();
        prop_assert_eq!(&InferRequest::decode(&body, None, header.map(|h| h as u64)).unwrap(), &sent);
        let sent = response_of(sent);
        let (body, header) = sent.encode(true).unwrap();
        prop_assert_eq!(InferResponse::decode(&body, None, header.map(|h| h as u64)).unwrap(), sent);
    }

    #[test]
    fn what_does_not_need_binary_has_a_json_form(sent in request(false)) {
        prop_assert_eq!(sent.encode(false).is_err(), sent.needs_binary());
    }

    #[test]
    fn hostile_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..64), header in prop::option::of(0u64..80)) {
        let body = Bytes::from(body);
        let _ = InferRequest::decode(&body, None, header);
        let _ = InferResponse::decode(&body, None, header);
    }

    #[test]
    fn damaged_bodies_never_panic_and_what_they_say_fits_its_shape(
        sent in request(true),
        binary in any::<bool>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<u8>()), 1..6),
    ) {
        let (body, header) = sent.encode(binary).unwrap();
        let body = mutated(body.to_vec(), &edits);
        if let Ok(request) = InferRequest::decode(&body, None, header.map(|h| h as u64)) {
            // Encoding checks every shape against its data.
            prop_assert!(request.encode(true).is_ok());
        }
    }
}
