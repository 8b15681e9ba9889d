//! What an operator's loader sees of a node: opset, which inputs there are, and its attributes,
//! each of which has to be asked for. What nobody asked for is an unknown attribute.

use std::rc::Rc;

use crate::host::Host;
use crate::proto;
use crate::types::Type;

/// One node while it is checked.
pub struct Reader<'a> {
    /// Version of the default operator set that the model declares.
    pub opset: i64,
    /// Which inputs are given.
    pub inputs: Vec<bool>,
    /// Rank of each input, where it is known before any input is.
    pub ranks: Vec<Option<usize>>,
    /// The elements of each input, where they are known before any input is.
    pub known: Vec<Option<Rc<Host>>>,
    attributes: Vec<Option<&'a proto::Attribute>>,
}

const KINDS: [&str; 15] = [
    "nothing",
    "a float",
    "an int",
    "a string",
    "a tensor",
    "a graph",
    "floats",
    "ints",
    "strings",
    "tensors",
    "graphs",
    "a sparse tensor",
    "sparse tensors",
    "a type",
    "types",
];

impl<'a> Reader<'a> {
    /// Fails on an attribute that is given twice or refers to a function's argument.
    pub fn new(
        opset: i64,
        node: &'a proto::Node,
        ranks: Vec<Option<usize>>,
        known: Vec<Option<Rc<Host>>>,
    ) -> Result<Self, String> {
        for (i, attribute) in node.attribute.iter().enumerate() {
            if node.attribute[..i].iter().any(|a| a.name == attribute.name) {
                return Err(format!("attribute {:?} is given twice", attribute.name));
            }
            if !attribute.ref_attr_name.is_empty() {
                return Err(format!(
                    "attribute {:?} refers to a function's argument outside a function",
                    attribute.name
                ));
            }
        }
        Ok(Self {
            opset,
            inputs: node.input.iter().map(|name| !name.is_empty()).collect(),
            ranks,
            known,
            attributes: node.attribute.iter().map(Some).collect(),
        })
    }

    /// True if input `index` is given.
    pub fn has(&self, index: usize) -> bool {
        self.inputs.get(index).copied().unwrap_or(false)
    }

    fn take(&mut self, name: &str, kind: usize) -> Result<Option<&'a proto::Attribute>, String> {
        let Some(found) = self.attributes.iter_mut().find(|a| a.is_some_and(|a| a.name == name)) else {
            return Ok(None);
        };
        let attribute = found.take();
        match attribute {
            // Files of before IR version 2 do not say the kind.
            Some(a) if a.kind as usize != kind && a.kind != 0 => {
                let what =
                    usize::try_from(a.kind).ok().and_then(|k| KINDS.get(k)).unwrap_or(&"something unknown");
                Err(format!("attribute {name:?} must be {}, but is {what}", KINDS[kind]))
            }
            other => Ok(other),
        }
    }

    /// An integer attribute.
    pub fn int(&mut self, name: &str) -> Result<Option<i64>, String> {
        Ok(self.take(name, 2)?.map(|a| a.i))
    }

    /// An integer attribute that is 0 or 1.
    pub fn flag(&mut self, name: &str, default: bool) -> Result<bool, String> {
        match self.int(name)? {
            None => Ok(default),
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            Some(other) => Err(format!("attribute {name:?} must be 0 or 1, but is {other}")),
        }
    }

    /// A float attribute.
    pub fn float(&mut self, name: &str) -> Result<Option<f32>, String> {
        Ok(self.take(name, 1)?.map(|a| a.f))
    }

    /// A string attribute.
    pub fn string(&mut self, name: &str) -> Result<Option<String>, String> {
        Ok(self.take(name, 3)?.map(|a| String::from_utf8_lossy(&a.s).into_owned()))
    }

    /// A list of integers.
    pub fn ints(&mut self, name: &str) -> Result<Option<Vec<i64>>, String> {
        Ok(self.take(name, 7)?.map(|a| a.ints.clone()))
    }

    /// A list of floats.
    pub fn floats(&mut self, name: &str) -> Result<Option<Vec<f32>>, String> {
        Ok(self.take(name, 6)?.map(|a| a.floats.clone()))
    }

    /// A tensor attribute.
    pub fn tensor(&mut self, name: &str) -> Result<Option<&'a proto::Tensor>, String> {
        self.take(name, 4)?
            .map(|a| a.t.as_ref().ok_or_else(|| format!("attribute {name:?} holds no tensor")))
            .transpose()
    }

    /// A list of integers that all lie in `1..=u32::MAX`, `None` when absent.
    pub fn positive(&mut self, name: &str) -> Result<Option<Vec<u32>>, String> {
        self.ints(name)?
            .map(|list| {
                list.iter()
                    .map(|v| u32::try_from(*v).ok().filter(|v| *v > 0))
                    .collect::<Option<Vec<u32>>>()
                    .ok_or_else(|| format!("attribute {name:?} must hold positive integers, but is {list:?}"))
            })
            .transpose()
    }

    /// An attribute of an element type's number.
    pub fn element_type(&mut self, name: &str) -> Result<Option<Type>, String> {
        match self.int(name)? {
            None => Ok(None),
            Some(number) => {
                let number = i32::try_from(number).unwrap_or(-1);
                Type::from_onnx(number).map(Some).map_err(|e| format!("attribute {name:?}: {e}"))
            }
        }
    }

    /// Fails if an attribute is left that nobody asked for.
    pub fn finish(self) -> Result<(), String> {
        match self.attributes.into_iter().flatten().next() {
            Some(attribute) => {
                Err(format!("attribute {:?} is not known for this operator at this opset", attribute.name))
            }
            None => Ok(()),
        }
    }
}
