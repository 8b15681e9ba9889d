//! Bodies of requests and responses, in JSON and with binary tensors.

use bytes::Bytes;
use warren_client::oip::{
    BINARY, Data, DecodeError, InferRequest, InferResponse, JSON, MAX_NAME, MAX_TENSORS, Parameters, Tensor,
};

use crate::take::Take;
use crate::{check_text, memory};

/// The binary extension's own parameter: never written where there is no tensor.
const SIZE: &str = "binary_data_size";

/// A body: kind and length of the header, then the body itself.
pub fn oip(bytes: &[u8]) {
    let mut take = Take::new(bytes);
    let kind = take.u8();
    let header = (kind & 2 != 0).then(|| u64::from(take.u16()));
    let content_type =
        [None, Some(JSON), Some(BINARY), Some("text/plain\u{1b}[31m")][usize::from(kind >> 2 & 3)];
    let body = Bytes::copy_from_slice(take.rest());
    // Names, parameters and shapes take more in memory than in text; nothing takes more than this.
    let limit = (64 << 10) + 64 * body.len();
    if kind & 1 == 0 {
        match memory::within(limit, || InferRequest::decode(&body, content_type, header)) {
            Ok(request) => again(request),
            Err(error) => refused(&error),
        }
    } else {
        match memory::within(limit, || InferResponse::decode(&body, content_type, header)) {
            Ok(response) => response_again(response),
            Err(error) => refused(&error),
        }
    }
}

/// An error says where.
fn refused(error: &DecodeError) {
    check_text(&error.to_string());
    if let DecodeError::Structure { path, .. } | DecodeError::Tensor { path, .. } = error {
        assert!(!path.is_empty(), "{error:?} names no place");
    }
}

fn check(tensors: &[Tensor]) {
    assert!(tensors.len() <= MAX_TENSORS);
    for (index, tensor) in tensors.iter().enumerate() {
        assert!((1..=MAX_NAME).contains(&tensor.name.len()));
        assert!(tensors[..index].iter().all(|t| t.name != tensor.name), "{:?} twice", tensor.name);
        let count = tensor.elements().expect("the shape was checked");
        match &tensor.data {
            Data::Raw(raw) => {
                let size = tensor.datatype.size().expect("numbers have a size") as u64;
                assert_eq!(Some(raw.len() as u64), count.checked_mul(size));
                if let Some(values) = tensor.to_fp32() {
                    assert_eq!(values.len() as u64, count);
                }
            }
            Data::Strings(elements) => assert_eq!(elements.len() as u64, count),
            Data::None => assert!(tensor.parameters.text("dataref").is_some()),
        }
    }
}

fn without_size(parameters: &mut Parameters) {
    parameters.remove(SIZE);
}

/// What was read can be written, and reads the same then.
fn again(mut request: InferRequest) {
    check(&request.inputs);
    without_size(&mut request.parameters);
    request.outputs.iter_mut().for_each(|o| without_size(&mut o.parameters));
    for binary in [false, true] {
        if !binary && request.needs_binary() {
            assert!(request.encode(false).is_err());
            continue;
        }
        let (body, header) = request.encode(binary).expect("what was read can be written");
        let back = InferRequest::decode(&body, None, header.map(|n| n as u64));
        assert_eq!(back.as_ref(), Ok(&request), "binary: {binary}");
    }
}

fn response_again(mut response: InferResponse) {
    check(&response.outputs);
    without_size(&mut response.parameters);
    for binary in [false, true] {
        if !binary && response.needs_binary() {
            assert!(response.encode(false).is_err());
            continue;
        }
        let (body, header) = response.encode(binary).expect("what was read can be written");
        let back = InferResponse::decode(&body, None, header.map(|n| n as u64));
        assert_eq!(back.as_ref(), Ok(&response), "binary: {binary}");
    }
}
