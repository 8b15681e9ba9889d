//! Commands of a plan: dispatches, and how a kernel's work is cut into them.

use crate::wgpu::kernel::Kernel;

/// What the device allows, as far as plans must know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of a binding.
    pub binding: u64,
    /// Bytes of a buffer.
    pub buffer: u64,
    /// Storage buffers of a kernel.
    pub buffers: u32,
    /// Workgroups in one dimension of a dispatch.
    pub groups: u32,
    /// Multiplications or so between two places where another job may go on.
    pub slice: u64,
}

/// A buffer of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// The step's operand of this number.
    Input(usize),
    /// The step's result of this number.
    Output(usize),
    /// Memory for the time of the step.
    Scratch(usize),
}

/// A buffer, or a piece of it, that a dispatch uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bind {
    pub what: What,
    /// In bytes.
    pub offset: u64,
    /// In bytes.
    pub size: u64,
}

/// One dispatch.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    pub kernel: Kernel,
    /// `P` of the kernel.
    pub params: Vec<u32>,
    /// Workgroups.
    pub groups: u32,
    /// In the order of the kernel's bindings, read ones first.
    pub binds: Vec<Bind>,
    /// About how many multiplications.
    pub work: u64,
}

/// Why a step does not run on the device, for people.
pub(crate) type Unhosted = &'static str;

/// The commands of a step.
pub(crate) struct Commands<'a> {
    pub limits: &'a Limits,
    pub list: Vec<Command>,
    /// Bytes of each scratch buffer.
    pub scratch: Vec<usize>,
    /// Bytes of each operand and each result.
    pub inputs: &'a [usize],
    pub outputs: &'a [usize],
}

/// Bytes bound for a buffer of so many: whole groups of words, which every buffer has room for.
pub(crate) fn bound(bytes: usize) -> u64 {
    (bytes.max(1) as u64).next_multiple_of(16)
}

impl Commands<'_> {
    /// A whole operand.
    pub fn input(&self, at: usize) -> Bind {
        let bytes = self.inputs.get(at).copied().unwrap_or(0);
        Bind { what: What::Input(at), offset: 0, size: bound(bytes) }
    }

    /// The whole result.
    pub fn output(&self) -> Bind {
        let bytes = self.outputs.first().copied().unwrap_or(0);
        Bind { what: What::Output(0), offset: 0, size: bound(bytes) }
    }

    /// Memory for the time of the step.
    pub fn scratch(&mut self, bytes: usize) -> Bind {
        self.scratch.push(bytes);
        Bind { what: What::Scratch(self.scratch.len() - 1), offset: 0, size: bound(bytes) }
    }

    /// Adds a kernel over `groups` workgroups; `tail` is what follows the first two of `P`.
    /// Cut into several dispatches where it has more work than a slice.
    pub fn push(
        &mut self,
        kernel: Kernel,
        groups: usize,
        tail: &[u32],
        binds: Vec<Bind>,
        work: usize,
    ) -> Result<(), Unhosted> {
        if groups == 0 {
            return Ok(());
        }
        if kernel.inputs as usize + kernel.outputs as usize != binds.len() {
            return Err("its kernel takes other buffers (a bug in Warren)");
        }
        if kernel.inputs + kernel.outputs + 1 > self.limits.buffers {
            return Err("it has more operands than a kernel of the device may have");
        }
        if binds.iter().any(|b| b.size > self.limits.binding) {
            return Err("an operand is larger than a binding of the device may be");
        }
        let total = u32::try_from(groups).ok().filter(|&g| g < u32::MAX / 512);
        let total = total.ok_or("it has more elements than a kernel counts")?;
        let work = work.max(1) as u64;
        let pieces = work.div_ceil(self.limits.slice).clamp(1, u64::from(total)) as u32;
        let each = total.div_ceil(pieces);
        let mut first = 0;
        while first < total {
            let end = total.min(first + each);
            let mut params = Vec::with_capacity(2 + tail.len());
            params.extend_from_slice(&[first, end]);
            params.extend_from_slice(tail);
            self.list.push(Command {
                kernel: kernel.clone(),
                params,
                groups: end - first,
                binds: binds.clone(),
                work: work / u64::from(pieces) + 1,
            });
            first = end;
        }
        Ok(())
    }
}

/// A dispatch of `groups` workgroups in two dimensions of at most `limit`; kernels count through.
pub(crate) fn dimensions(groups: u32, limit: u32) -> (u32, u32) {
    let limit = limit.max(1);
    if groups <= limit {
        return (groups, 1);
    }
    let rows = groups.div_ceil(limit);
    (groups.div_ceil(rows), rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dispatches_hold_every_group_within_the_limit() {
        for groups in [1, 5, 65_535, 65_536, 65_537, 10_000_019, u32::MAX / 512] {
            let (x, y) = dimensions(groups, 65_535);
            assert!(x <= 65_535 && y <= 65_535);
            let all = u64::from(x) * u64::from(y);
            assert!(all >= u64::from(groups) && all < u64::from(groups) + u64::from(y));
        }
    }
}
