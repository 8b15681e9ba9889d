//! Shapes: inline lists of up to eight dimensions, with checked arithmetic on them.

use std::fmt;

/// The most dimensions that a tensor may have.
pub const MAX_RANK: usize = 8;

/// The most elements that a tensor may have: offsets then fit a signed 32-bit index of a device.
pub const MAX_ELEMENTS: u64 = i32::MAX as u64;

/// Up to [`MAX_RANK`] unsigned numbers, held inline so that recording an operation allocates
/// nothing. Used for shapes and for lists that are as long as a shape (axes, paddings).
#[derive(Clone, Copy, Default)]
pub struct Dims {
    dims: [u32; MAX_RANK],
    rank: u8,
}

impl Dims {
    /// The empty list: the shape of a scalar.
    pub const SCALAR: Dims = Dims { dims: [0; MAX_RANK], rank: 0 };

    /// A list of these numbers, or `None` when there are more than [`MAX_RANK`].
    pub fn new(dims: &[u32]) -> Option<Dims> {
        let mut out = Dims::SCALAR;
        out.dims.get_mut(..dims.len())?.copy_from_slice(dims);
        out.rank = dims.len() as u8;
        Some(out)
    }

    /// `rank` copies of `value`; `rank` is cut to [`MAX_RANK`].
    pub fn splat(value: u32, rank: usize) -> Dims {
        let rank = rank.min(MAX_RANK);
        let mut out = Dims { dims: [0; MAX_RANK], rank: rank as u8 };
        out.dims[..rank].fill(value);
        out
    }

    /// The numbers, outermost dimension first.
    #[inline]
    pub fn as_slice(&self) -> &[u32] {
        &self.dims[..self.rank as usize]
    }

    /// The numbers, to be changed in place.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u32] {
        &mut self.dims[..self.rank as usize]
    }

    /// How many there are.
    #[inline]
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// Appends one, or answers `None` when the list is full.
    pub fn push(&mut self, dim: u32) -> Option<()> {
        *self.dims.get_mut(self.rank as usize)? = dim;
        self.rank += 1;
        Some(())
    }

    /// The product. `None` when the dimensions other than 0 multiply to more than
    /// [`MAX_ELEMENTS`]: then strides would overflow even where there is no element.
    #[inline]
    pub fn elements(&self) -> Option<u64> {
        let (mut product, mut empty) = (1u64, false);
        for &d in self.as_slice() {
            empty |= d == 0;
            product *= u64::from(d.max(1)); // both factors are below 2^32
            if product > MAX_ELEMENTS {
                return None;
            }
        }
        Some(if empty { 0 } else { product })
    }

    /// The product of a shape that was checked before; 0 for one that was not and is too large.
    #[inline]
    pub fn count(&self) -> usize {
        self.elements().unwrap_or(0) as usize
    }
}

impl PartialEq for Dims {
    #[inline]
    fn eq(&self, other: &Dims) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Dims {}

impl fmt::Debug for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_slice(), f)
    }
}

/// The shape that two broadcast to as in NumPy, or `None` if they do not.
pub fn broadcast(a: &Dims, b: &Dims) -> Option<Dims> {
    if a == b {
        return Some(*a);
    }
    let (long, short) = if a.rank() >= b.rank() { (a, b) } else { (b, a) };
    let mut out = *long;
    let lead = long.rank() - short.rank();
    for (o, &s) in out.as_mut_slice()[lead..].iter_mut().zip(short.as_slice()) {
        *o = match (*o, s) {
            (x, y) if x == y => x,
            (1, y) => y,
            (x, 1) => x,
            _ => return None,
        };
    }
    Some(out)
}

/// Whether `from` broadcasts to exactly `to`.
pub fn broadcasts_to(from: &Dims, to: &Dims) -> bool {
    broadcast(from, to).is_some_and(|b| b == *to)
}

/// Row-major strides in elements; entries beyond the rank are 0.
pub fn strides(shape: &[u32]) -> [usize; MAX_RANK] {
    let mut out = [0usize; MAX_RANK];
    let mut step = 1usize;
    for i in (0..shape.len().min(MAX_RANK)).rev() {
        out[i] = step;
        step = step.saturating_mul(shape[i] as usize);
    }
    out
}

/// Strides with which `from`, row-major, is read when broadcast to `to` (0 along repeated
/// dimensions). `from` must broadcast to `to`.
pub fn broadcast_strides(from: &Dims, to: &Dims) -> [usize; MAX_RANK] {
    let own = strides(from.as_slice());
    let mut out = [0usize; MAX_RANK];
    let lead = to.rank().saturating_sub(from.rank());
    for (i, &d) in from.as_slice().iter().enumerate() {
        if d != 1 && lead + i < MAX_RANK {
            out[lead + i] = own[i];
        }
    }
    out
}
