//! Parameters: named booleans, numbers and texts on requests, tensors and responses.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

/// A parameter's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameter {
    /// `true` or `false`.
    Bool(bool),
    /// A number without fraction or exponent.
    Int(i64),
    /// Any other number; finite.
    Float(f64),
    /// A text.
    Text(String),
}

/// Parameters in the order they were given; names are unique.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parameters(Vec<(String, Parameter)>);

impl Parameters {
    /// The parameter called `name`.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// The parameter `name` if it is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Parameter::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The parameter `name` if it is an integer.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.get(name) {
            Some(Parameter::Int(value)) => Some(*value),
            _ => None,
        }
    }

    /// The parameter `name` if it is a boolean.
    pub fn bool(&self, name: &str) -> Option<bool> {
        match self.get(name) {
            Some(Parameter::Bool(value)) => Some(*value),
            _ => None,
        }
    }

    /// Sets `name`, replacing an earlier value.
    pub fn set(&mut self, name: impl Into<String>, value: Parameter) {
        let name = name.into();
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some(entry) => entry.1 = value,
            None => self.0.push((name, value)),
        }
    }

    /// Takes `name` out.
    pub fn remove(&mut self, name: &str) -> Option<Parameter> {
        let index = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.remove(index).1)
    }

    /// All of them, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, (String, Parameter)> {
        self.0.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl<'a> IntoIterator for &'a Parameters {
    type Item = &'a (String, Parameter);
    type IntoIter = std::slice::Iter<'a, (String, Parameter)>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl FromIterator<(String, Parameter)> for Parameters {
    /// The last of several values of one name stays.
    fn from_iter<I: IntoIterator<Item = (String, Parameter)>>(iter: I) -> Self {
        let mut parameters = Self::default();
        for (name, value) in iter {
            parameters.set(name, value);
        }
        parameters
    }
}

impl From<bool> for Parameter {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Parameter {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Parameter {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<&str> for Parameter {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Parameter {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

/// Most parameters on one object: unique names are checked pair by pair.
const MAX_PARAMETERS: usize = 256;

impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ParametersVisitor)
    }
}

struct ParametersVisitor;

impl<'de> Visitor<'de> for ParametersVisitor {
    type Value = Parameters;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of parameters")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parameters, A::Error> {
        let mut parameters = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name.len() > super::MAX_NAME {
                return Err(de::Error::custom(format_args!(
                    "a parameter's name has {} bytes, at most {} are allowed",
                    name.len(),
                    super::MAX_NAME
                )));
            }
            if parameters.len() == MAX_PARAMETERS {
                return Err(de::Error::custom(format_args!("more than {MAX_PARAMETERS} parameters")));
            }
            if parameters.iter().any(|(n, _)| *n == name) {
                return Err(de::Error::custom(format_args!("parameter {name:?} is given twice")));
            }
            // A null says that there is no such parameter: some clients write every field.
            if let Some(value) = map.next_value::<Option<Parameter>>()? {
                parameters.push((name, value));
            }
        }
        Ok(Parameters(parameters))
    }
}

impl<'de> Deserialize<'de> for Parameter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ParameterVisitor)
    }
}

struct ParameterVisitor;

impl Visitor<'_> for ParameterVisitor {
    type Value = Parameter;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a boolean, a number or a string")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Parameter, E> {
        Ok(Parameter::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Parameter, E> {
        Ok(Parameter::Int(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Parameter, E> {
        i64::try_from(value).map(Parameter::Int).map_err(|_| {
            E::custom(format_args!("{value} is above {}, the largest integer parameter", i64::MAX))
        })
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Parameter, E> {
        Ok(Parameter::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Parameter, E> {
        Ok(Parameter::Text(value.to_owned()))
    }
}
