//! Tensor data: from JSON text and from binary bytes into the typed form, element by element.
//! The text comes from serde_json's `RawValue`, so it is known to be well-formed JSON; the reader
//! here only has to tell tokens apart, and never recurses.

use bytes::Bytes;

use super::error::{clip, shape_text};
use super::{Data, Datatype};

/// What is wrong with a tensor's data, and at which indices of the JSON arrays.
pub(super) struct Wrong {
    pub indices: Vec<u64>,
    pub detail: String,
}

impl Wrong {
    fn whole(detail: impl Into<String>) -> Self {
        Self { indices: Vec::new(), detail: detail.into() }
    }
}

/// Reads `text`, a JSON value that lies within `body`, as the data of a tensor with `count`
/// elements, product(shape): a flat array, or arrays nested as the shape says.
pub(super) fn from_json(
    body: &Bytes,
    text: &str,
    datatype: Datatype,
    shape: &[u64],
    count: u64,
) -> Result<Data, Wrong> {
    macro_rules! integers {
        ($($kind:ident => $type:ty),*) => {
            match datatype {
                $(Datatype::$kind => read_raw(text, shape, count, size_of::<$type>(), |token, out| {
                    let value = integer(token)?;
                    let value = <$type>::try_from(value).map_err(|_| {
                        format!("{} is outside {}, {} to {}", clip(token, 40), datatype, <$type>::MIN, <$type>::MAX)
                    })?;
                    out.extend_from_slice(&value.to_le_bytes());
                    Ok(())
                }),)*
                Datatype::Bool => read_raw(text, shape, count, 1, |token, out| {
                    out.push(match token {
                        "true" => 1,
                        "false" => 0,
                        _ => return Err(format!("{} is neither true nor false", clip(token, 40))),
                    });
                    Ok(())
                }),
                Datatype::Fp32 => read_raw(text, shape, count, 4, |token, out| {
                    let value: f32 = float(token)?;
                    if value.is_infinite() {
                        return Err(format!("{} is outside FP32", clip(token, 40)));
                    }
                    out.extend_from_slice(&value.to_le_bytes());
                    Ok(())
                }),
                Datatype::Fp64 => read_raw(text, shape, count, 8, |token, out| {
                    let value: f64 = float(token)?;
                    if value.is_infinite() {
                        return Err(format!("{} is outside FP64", clip(token, 40)));
                    }
                    out.extend_from_slice(&value.to_le_bytes());
                    Ok(())
                }),
                Datatype::Fp16 | Datatype::Bf16 => Err(Wrong::whole(format!(
                    "{datatype} has no JSON form: send it as binary tensor data, or as FP32"
                ))),
                Datatype::Bytes => read_strings(body, text, shape, count),
            }
        };
    }
    integers!(
        Uint8 => u8, Uint16 => u16, Uint32 => u32, Uint64 => u64,
        Int8 => i8, Int16 => i16, Int32 => i32, Int64 => i64
    )
}

/// An integer token. 20 digits and a sign are the most that any type takes, and fit in 128 bits.
fn integer(token: &str) -> Result<i128, String> {
    let (negative, digits) = match token.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, token),
    };
    if digits.is_empty() || digits.len() > 20 {
        return Err(number_problem(token, "an integer"));
    }
    // A u64 loop for what fits: 128-bit multiplications cost several times as much.
    let magnitude = if digits.len() <= 18 {
        let mut value = 0u64;
        for byte in digits.bytes() {
            if !byte.is_ascii_digit() {
                return Err(number_problem(token, "an integer"));
            }
            value = value * 10 + u64::from(byte - b'0');
        }
        i128::from(value)
    } else {
        digits.parse().map_err(|_| number_problem(token, "an integer"))?
    };
    Ok(if negative { -magnitude } else { magnitude })
}

fn float<T: std::str::FromStr>(token: &str) -> Result<T, String> {
    // The standard library also reads "inf" and "nan", which no JSON token can be, and "+1".
    token.parse().map_err(|_| number_problem(token, "a number"))
}

fn number_problem(token: &str, wanted: &str) -> String {
    let what = match token.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    };
    format!("{} is {what}, and {wanted} is expected", clip(token, 40))
}

fn read_raw(
    text: &str,
    shape: &[u64],
    count: u64,
    size: usize,
    mut element: impl FnMut(&str, &mut Vec<u8>) -> Result<(), String>,
) -> Result<Data, Wrong> {
    // An element takes two characters or more: what is reserved is bounded by what was sent.
    let reserve = usize::try_from(count).unwrap_or(usize::MAX).min(text.len() / 2);
    let mut out = Vec::with_capacity(reserve.saturating_mul(size));
    read(text, shape, count, |token| element(token, &mut out))?;
    Ok(Data::Raw(Bytes::from(out)))
}

fn read_strings(body: &Bytes, text: &str, shape: &[u64], count: u64) -> Result<Data, Wrong> {
    // A string takes three characters or more with its comma.
    let reserve = usize::try_from(count).unwrap_or(usize::MAX).min(text.len() / 3);
    let mut out = Vec::with_capacity(reserve);
    read(text, shape, count, |token| {
        let inner = token.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
        let Some(inner) = inner else {
            return Err(format!("{} is not a string", clip(token, 40)));
        };
        out.push(if inner.contains('\\') {
            let value: String =
                serde_json::from_str(token).map_err(|e| format!("not a valid string: {e}"))?;
            Bytes::from(value)
        } else {
            body.slice_ref(inner.as_bytes())
        });
        Ok(())
    })?;
    Ok(Data::Strings(out))
}

/// Walks the arrays of `text` and hands every scalar token to `element`, in order. A first element
/// that is an array makes it nested: then every level must have the length that the shape says.
fn read(
    text: &str,
    shape: &[u64],
    count: u64,
    mut element: impl FnMut(&str) -> Result<(), String>,
) -> Result<(), Wrong> {
    let bytes = text.as_bytes();
    let mut at = skip_space(bytes, 0);
    if bytes.get(at) != Some(&b'[') {
        return Err(Wrong::whole(format!("{} is not an array", clip(text, 40))));
    }
    at = skip_space(bytes, at + 1);
    let nested = bytes.get(at) == Some(&b'[');
    if nested && shape.len() < 2 {
        let (rank, shape) = (shape.len(), shape_text(shape));
        return Err(Wrong::whole(format!(
            "arrays within the array, and shape {shape} has {rank} dimensions"
        )));
    }
    let depth = if nested { shape.len() } else { 1 };
    let lengths: &[u64] = if nested { shape } else { std::slice::from_ref(&count) };
    // Elements seen so far at each open level, outermost first.
    let mut seen = vec![0u64];
    // Path of the element that is being read, for errors.
    let here = |seen: &[u64], detail: String| {
        let mut indices = parents(seen);
        indices.extend(seen.last());
        Wrong { indices, detail }
    };
    let wrong_length = |seen: &[u64], got: &str| {
        let level = seen.len() - 1;
        let shape = shape_text(shape);
        let detail = if nested {
            format!("{got} elements, and dimension {level} of shape {shape} has {}", lengths[level])
        } else {
            format!("{got} elements, and shape {shape} has {count}")
        };
        Wrong { indices: parents(seen), detail }
    };
    loop {
        at = skip_space(bytes, at);
        let Some(first) = bytes.get(at) else {
            return Err(Wrong::whole("the array does not end"));
        };
        let level = seen.len() - 1;
        match first {
            b',' => at += 1,
            b']' => {
                if seen[level] != lengths[level] {
                    return Err(wrong_length(&seen, &seen[level].to_string()));
                }
                seen.pop();
                if seen.is_empty() {
                    return Ok(());
                }
                at += 1;
            }
            b'[' => {
                if seen.len() == depth {
                    let detail = if nested {
                        format!("arrays are nested deeper than shape {}", shape_text(shape))
                    } else {
                        "an array among numbers: data is flat, or nested as the shape says".to_owned()
                    };
                    return Err(here(&seen, detail));
                }
                if seen[level] == lengths[level] {
                    return Err(wrong_length(&seen, "more"));
                }
                seen[level] += 1;
                seen.push(0);
                at += 1;
            }
            _ => {
                let end = token_end(bytes, at);
                let token = &text[at..end];
                if seen.len() != depth {
                    let detail =
                        format!("{} stands where shape {} has an array", clip(token, 40), shape_text(shape));
                    return Err(here(&seen, detail));
                }
                if seen[level] == lengths[level] {
                    return Err(wrong_length(&seen, "more"));
                }
                element(token).map_err(|detail| here(&seen, detail))?;
                seen[level] += 1;
                at = end;
            }
        }
    }
}

/// Indices of the arrays that are open around the current one: each was counted when it opened.
fn parents(seen: &[u64]) -> Vec<u64> {
    let outer = seen.len().saturating_sub(1);
    seen[..outer].iter().map(|n| n.saturating_sub(1)).collect()
}

fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// End of the scalar that starts at `at`. Of an object only its opening brace: no element is one.
fn token_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    match bytes[at] {
        b'{' => {}
        b'"' => {
            while let Some(byte) = bytes.get(end) {
                match byte {
                    b'"' => return end + 1,
                    b'\\' => end += 2,
                    _ => end += 1,
                }
            }
            end = end.min(bytes.len());
        }
        _ => {
            while let Some(byte) = bytes.get(end) {
                if matches!(byte, b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t') {
                    break;
                }
                end += 1;
            }
        }
    }
    end
}

/// Reads `raw`, the binary form of `count` elements, without copying it.
pub(super) fn from_binary(raw: Bytes, datatype: Datatype, shape: &[u64], count: u64) -> Result<Data, Wrong> {
    let Some(size) = datatype.size() else {
        return from_binary_strings(&raw, shape, count);
    };
    let expected = count.checked_mul(size as u64);
    if expected != Some(raw.len() as u64) {
        let expected = expected.map_or_else(|| "more than 2^64".to_owned(), |n| n.to_string());
        return Err(Wrong::whole(format!(
            "{datatype} of shape {} takes {expected} bytes, and binary_data_size is {}",
            shape_text(shape),
            raw.len()
        )));
    }
    if datatype == Datatype::Bool
        && let Some(at) = raw.iter().position(|b| *b > 1)
    {
        return Err(Wrong::whole(format!(
            "byte {at} of BOOL data is {}, and only 0 and 1 are allowed",
            raw[at]
        )));
    }
    Ok(Data::Raw(raw))
}

/// `BYTES`: before each element its length, 4 bytes little-endian.
fn from_binary_strings(raw: &Bytes, shape: &[u64], count: u64) -> Result<Data, Wrong> {
    let mut out = Vec::new();
    let mut at = 0usize;
    while at < raw.len() {
        if out.len() as u64 == count {
            return Err(Wrong::whole(format!(
                "more elements than the {count} of shape {}",
                shape_text(shape)
            )));
        }
        let start = at + 4;
        let Some(length) = raw.get(at..start).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes) else {
            return Err(Wrong::whole(format!("element {} has no room for its 4-byte length", out.len())));
        };
        let end = start + length as usize;
        if end > raw.len() {
            return Err(Wrong::whole(format!(
                "element {} has length {length}, and {} bytes are left",
                out.len(),
                raw.len() - start
            )));
        }
        out.push(raw.slice(start..end));
        at = end;
    }
    if out.len() as u64 != count {
        return Err(Wrong::whole(format!(
            "{} elements, and shape {} has {count}",
            out.len(),
            shape_text(shape)
        )));
    }
    Ok(Data::Strings(out))
}
