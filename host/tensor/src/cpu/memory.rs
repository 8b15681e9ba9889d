//! Lifetimes of a plan's buffers: when each is given back, which results take over a dying
//! operand's, and how many bytes a run holds at most.

use crate::buffer::capacity_for;
use crate::cpu::plan::{Kernel, Place, Step};
use crate::rules::Descriptor;

/// Decides where each slot's life ends and which outputs take over a dying input's buffer;
/// answers the most bytes held at once.
pub(crate) fn assign_memory(slots: &[usize], steps: &mut [Step], results: &[(Place, Descriptor)]) -> u64 {
    const FOREVER: usize = usize::MAX;
    let mut last_use = vec![0usize; slots.len()];
    for (at, step) in steps.iter().enumerate() {
        step.outputs.iter().for_each(|&o| last_use[o as usize] = at);
        for place in &step.inputs {
            if let Place::Slot(s) = place {
                last_use[*s as usize] = at;
            }
        }
    }
    for (place, _) in results {
        if let Place::Slot(s) = place {
            last_use[*s as usize] = FOREVER;
        }
    }
    let (mut live, mut peak) = (0u64, 0u64);
    let bytes = |slot: u32| capacity_for(slots[slot as usize]) as u64;
    for (at, step) in steps.iter_mut().enumerate() {
        let dying = |p: &Place| match p {
            Place::Slot(s) if last_use[*s as usize] == at => Some(*s),
            _ => None,
        };
        if let Kernel::Elements(program) = &mut step.kernel {
            let pair = step.inputs.iter().enumerate().find_map(|(i, place)| {
                let slot = dying(place)?;
                let size = program.inputs[i].data_type.size();
                let fits = |o: usize| {
                    program.outputs[o].size() == size
                        && slots[step.outputs[o] as usize] == slots[slot as usize]
                };
                let whole = slots[slot as usize] == program.total * size;
                let output = (0..step.outputs.len()).find(|&o| fits(o))?;
                (whole && program.reads_in_order(i)).then_some((i, output))
            });
            if let Some((input, _)) = pair {
                program.read_first(input);
            }
            step.in_place = pair;
        }
        live += step.outputs.iter().map(|&o| bytes(o)).sum::<u64>();
        if let Some((_, output)) = step.in_place {
            live -= bytes(step.outputs[output]);
        }
        let scratch = if step.workspace == 0 { 0 } else { capacity_for(step.workspace) as u64 };
        peak = peak.max(live + scratch);
        let mut frees: Vec<u32> = step.inputs.iter().filter_map(dying).collect();
        frees.extend(step.outputs.iter().filter(|&&o| last_use[o as usize] == at));
        frees.sort_unstable();
        frees.dedup();
        for &slot in &frees {
            let taken = step.in_place.is_some_and(|(i, _)| step.inputs[i] == Place::Slot(slot));
            if !taken {
                live -= bytes(slot);
            }
        }
        step.frees = frees;
    }
    peak
}
