//! One call of `MLGraphBuilder` as JSON: its arguments and options, read without trust in them.

use std::collections::HashMap;

use serde_json::Value as Json;
use warren_sdk::prelude::*;
use warren_sdk::tensor::InputOperandLayout;

use crate::Refusal;

type Result<T> = std::result::Result<T, Refusal>;

/// One call.
pub struct Call<'a> {
    /// Name of the operation.
    pub name: &'a str,
    /// Arguments and options.
    arguments: HashMap<&'a str, &'a Json>,
    tensors: &'a HashMap<String, Tensor>,
}

fn number(json: &Json) -> Option<f64> {
    match json {
        Json::Number(n) => n.as_f64(),
        // What JSON has no number for: infinities, NaN, and BigInt's digits.
        Json::String(text) => text.trim_end_matches('n').parse().ok(),
        _ => None,
    }
}

fn integer(json: &Json) -> Option<i64> {
    match json {
        Json::Number(n) => n.as_i64().or_else(|| {
            let float = n.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9.0e15)?;
            Some(float as i64)
        }),
        Json::String(text) => text.trim_end_matches('n').parse().ok(),
        _ => None,
    }
}

fn count(json: &Json) -> Option<u32> {
    integer(json).and_then(|n| u32::try_from(n).ok())
}

fn counts(json: &Json) -> Option<Vec<u32>> {
    json.as_array()?.iter().map(count).collect()
}

impl<'a> Call<'a> {
    /// The call of `name` with the arguments of a case: a list of objects of one argument each, the
    /// options under `options`.
    pub fn new(name: &'a str, given: &'a [Json], tensors: &'a HashMap<String, Tensor>) -> Result<Self> {
        let mut arguments: HashMap<&str, &Json> = HashMap::new();
        for argument in given {
            let Json::Object(argument) = argument else {
                return Err(Refusal::Json(format!("{name}: an argument is {argument}, expected an object")));
            };
            for (key, value) in argument {
                match value {
                    Json::Object(options) if key == "options" => {
                        arguments.extend(options.iter().map(|(k, v)| (k.as_str(), v)));
                    }
                    value => drop(arguments.insert(key, value)),
                }
            }
        }
        Ok(Self { name, arguments, tensors })
    }

    fn refuse<T>(&self, key: &str, value: &Json, expected: &str) -> Result<T> {
        Err(Refusal::Json(format!("{}: {key:?} is {value}, expected {expected}", self.name)))
    }

    fn read<T>(&self, key: &str, expected: &str, read: impl Fn(&'a Json) -> Option<T>) -> Result<Option<T>> {
        match self.arguments.get(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(read) => Ok(Some(read)),
                None => self.refuse(key, value, expected),
            },
        }
    }

    fn need<T>(&self, key: &str, found: Option<T>) -> Result<T> {
        found.ok_or_else(|| Refusal::Json(format!("{} has no {key:?}", self.name)))
    }

    /// Whether an argument or option is given.
    pub fn has(&self, key: &str) -> bool {
        self.arguments.contains_key(key)
    }

    /// The tensor that an option names.
    pub fn optional(&self, key: &str) -> Result<Option<&'a Tensor>> {
        self.read(key, "the name of an input or an earlier output", |v| self.tensors.get(v.as_str()?))
    }

    /// The tensor that an argument names.
    pub fn tensor(&self, key: &str) -> Result<&'a Tensor> {
        self.need(key, self.optional(key)?)
    }

    /// The operand of operations that have one: `input`, or `a` in some.
    pub fn input(&self) -> Result<&'a Tensor> {
        self.tensor(if self.has("input") { "input" } else { "a" })
    }

    /// The tensors that an argument names.
    pub fn tensors(&self, key: &str) -> Result<Vec<&'a Tensor>> {
        let named = self.read(key, "a list of names of inputs or earlier outputs", |v| {
            v.as_array()?.iter().map(|name| self.tensors.get(name.as_str()?)).collect()
        })?;
        self.need(key, named)
    }

    /// A number.
    pub fn number(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.bound(key)?.unwrap_or(default))
    }

    /// A number that may be missing.
    pub fn bound(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a number", number)
    }

    /// A whole number.
    pub fn integer(&self, key: &str, default: i32) -> Result<i32> {
        let read = |v| integer(v).and_then(|n| i32::try_from(n).ok());
        Ok(self.read(key, "a whole number of 32 bits", read)?.unwrap_or(default))
    }

    /// A whole number from 0.
    pub fn count(&self, key: &str, default: u32) -> Result<u32> {
        Ok(self.read(key, "a whole number from 0", count)?.unwrap_or(default))
    }

    /// A whole number from 0 that must be given.
    pub fn size(&self, key: &str) -> Result<u32> {
        self.need(key, self.read(key, "a whole number from 0", count)?)
    }

    /// True or false.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.read(key, "true or false", Json::as_bool)?.unwrap_or(default))
    }

    /// Whole numbers that may be missing.
    pub fn optional_list(&self, key: &str) -> Result<Option<Vec<u32>>> {
        self.read(key, "a list of whole numbers from 0", counts)
    }

    /// Whole numbers.
    pub fn list(&self, key: &str) -> Result<Vec<u32>> {
        self.need(key, self.optional_list(key)?)
    }

    /// So many whole numbers, or none at all.
    pub fn optional_array<const N: usize>(&self, key: &str) -> Result<Option<[u32; N]>> {
        let expected = format!("a list of {N} whole numbers from 0");
        self.read(key, &expected, |v| counts(v)?.try_into().ok())
    }

    /// So many whole numbers.
    pub fn array<const N: usize>(&self, key: &str, default: [u32; N]) -> Result<[u32; N]> {
        Ok(self.optional_array(key)?.unwrap_or(default))
    }

    /// So many numbers.
    pub fn numbers<const N: usize>(&self, key: &str, default: [f32; N]) -> Result<[f32; N]> {
        let read = |v: &'a Json| {
            let numbers: Option<Vec<f32>> =
                v.as_array()?.iter().map(|n| number(n).map(|n| n as f32)).collect();
            numbers?.try_into().ok()
        };
        Ok(self.read(key, &format!("a list of {N} numbers"), read)?.unwrap_or(default))
    }

    /// One of several words, as what it stands for.
    pub fn choice<T: Copy>(&self, key: &str, default: T, words: &[(&str, T)]) -> Result<T> {
        let expected = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or ");
        let found = self.read(key, &expected, |v| {
            let given = v.as_str()?;
            words.iter().find(|(word, _)| *word == given).map(|(_, stands_for)| *stands_for)
        })?;
        Ok(found.unwrap_or(default))
    }

    /// So many words, as what they stand for.
    pub fn choices<T: Copy, const N: usize>(
        &self,
        key: &str,
        default: [T; N],
        words: &[(&str, T)],
    ) -> Result<[T; N]> {
        let expected = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or ");
        let found = self.read(key, &format!("{N} times {expected}"), |v| {
            let given: Option<Vec<T>> = v
                .as_array()?
                .iter()
                .map(|v| words.iter().find(|(word, _)| v.as_str() == Some(word)).map(|(_, t)| *t))
                .collect();
            given?.try_into().ok()
        })?;
        Ok(found.unwrap_or(default))
    }

    /// A data type by its name in WebNN.
    pub fn data_type(&self, key: &str) -> Result<Option<DataType>> {
        const ALL: [DataType; 8] = [
            DataType::Float32,
            DataType::Float16,
            DataType::Int32,
            DataType::Uint32,
            DataType::Int64,
            DataType::Uint64,
            DataType::Int8,
            DataType::Uint8,
        ];
        let read = |v: &Json| ALL.into_iter().find(|t| v.as_str() == Some(t.to_string().as_str()));
        self.read(key, "a data type", read)
    }

    /// A data type that must be given.
    pub fn needed_data_type(&self, key: &str) -> Result<DataType> {
        self.need(key, self.data_type(key)?)
    }

    /// The order of an image's dimensions.
    pub fn layout(&self, key: &str, default: InputOperandLayout) -> Result<InputOperandLayout> {
        self.choice(key, default, &[("nchw", InputOperandLayout::Nchw), ("nhwc", InputOperandLayout::Nhwc)])
    }

    /// Whether an argument is a list.
    pub fn is_list(&self, key: &str) -> bool {
        self.arguments.get(key).is_some_and(|v| v.is_array())
    }
}
