//! The Reduce operators.

use serde::{Deserialize, Serialize};

use crate::error::{OpError, OpResult};
use crate::graph::{Args, Value, axes};
use crate::host::{self, Data, Host};

/// What the reduced elements become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Kind {
    L1,
    L2,
    LogSum,
    LogSumExp,
    Max,
    Mean,
    Min,
    Prod,
    Sum,
    SumSquare,
}

pub fn reduce<'a>(
    kind: Kind,
    fixed: Option<&[i64]>,
    keep: bool,
    noop: bool,
    args: &Args<'_, 'a>,
) -> OpResult<Value<'a>> {
    let value = args.value(0)?;
    let given = args.ints(1)?;
    let list = fixed.or(given.as_deref()).filter(|list| !list.is_empty());
    if list.is_none() && noop {
        return match kind {
            Kind::Max | Kind::Mean | Kind::Min | Kind::Prod | Kind::Sum => Ok(value.clone()),
            _ => Err(OpError::Unsupported("noop_with_empty_axes without axes, for this operator".into())),
        };
    }
    let dims = value.dims();
    let over = match list {
        Some(list) => axes(list, dims.len())?,
        None => (0..dims.len()).collect(),
    };
    if let Some(known) = args.host(0)
        && let Some(result) = reduce_host(kind, known, &over, keep)
    {
        return Ok(Value::host(result));
    }
    let x = args.tensor(0)?;
    let over: Vec<u32> = over.into_iter().map(|a| a as u32).collect();
    let over = Some(over.as_slice());
    let y = match kind {
        Kind::L1 => x.reduce_l1(over, keep),
        Kind::L2 => x.reduce_l2(over, keep),
        Kind::LogSum => x.reduce_log_sum(over, keep),
        Kind::LogSumExp => x.reduce_log_sum_exp(over, keep),
        Kind::Max => x.reduce_max(over, keep),
        Kind::Mean => x.reduce_mean(over, keep),
        Kind::Min => x.reduce_min(over, keep),
        Kind::Prod => x.reduce_product(over, keep),
        Kind::Sum => x.reduce_sum(over, keep),
        Kind::SumSquare => x.reduce_sum_square(over, keep),
    }?;
    Ok(Value::device(y, value.ty()))
}

/// Integers over all axes, as shape arithmetic does it.
fn reduce_host(kind: Kind, x: &Host, over: &[usize], keep: bool) -> Option<Host> {
    let Data::Int(v) = &x.data else { return None };
    if over.len() != x.dims.len() || v.is_empty() {
        return None;
    }
    let result = match kind {
        Kind::Prod => v.iter().fold(1i64, |a, b| a.wrapping_mul(*b)),
        Kind::Sum => v.iter().fold(0i64, |a, b| a.wrapping_add(*b)),
        Kind::Max => *v.iter().max()?,
        Kind::Min => *v.iter().min()?,
        _ => return None,
    };
    let dims = if keep { vec![1; x.dims.len()] } else { Vec::new() };
    Some(Host::new(x.ty, dims, Data::Int(vec![host::wrap(x.ty, result)])))
}
