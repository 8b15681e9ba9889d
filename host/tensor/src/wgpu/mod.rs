//! The wgpu backend: graphs on a GPU over Vulkan, or on a CPU adapter that is asked for by name.
//!
//! **Planning is shared with the CPU.** A graph is lowered to the kernels of `cpu::lower` (views,
//! fused element-wise programs, grouped reductions, batched products), and each of them becomes
//! commands here: `elements` writes a fused program as one WGSL kernel, the others are the files in
//! `kernels/`, with structure in `override` constants and shapes in a uniform block, so that new
//! shapes need no new pipeline. A kernel that has none here runs as it is on the CPU backend
//! between two pieces of the plan, so nothing is refused that the CPU computes; `Unhosted` names
//! the reason.
//!
//! **One thread owns the device** (`worker`). Jobs send it runs and reads and wait for the answers,
//! each on a channel of its own, looking at their cancel flag meanwhile; no job's wait holds up
//! another's. A run is recorded in one encoder and submitted at once; one with more work than a
//! slice is cut, and slices of several jobs take turns, so that a cancelled job stops soon and a
//! small one does not wait for a large one. Buffers go back to the pool when they are recorded:
//! the queue runs in order.
//!
//! **Memory.** Device buffers have the size classes of host buffers and are charged the same; a
//! tensor that lies in both places is charged once. Intermediates share buffers by their lifetimes,
//! planned beforehand.
//!
//! **Data types.** Buffers hold what host memory holds. 8-bit types and float16 are packed in words
//! and computed as 32-bit ones (float16 rounded after each operation, in integer arithmetic, as on
//! the CPU). 64-bit integers are computed where the device has them, else on the CPU.
//!
//! **A lost device** (destroyed, reset, or silent past the deadline) fails all that waits on it with
//! `DeviceLost`. The next use makes a new one, a new *generation*; buffers of the old are known by
//! it. What lies in host memory (constants, assets) is uploaded again when it is next used, and a
//! graph that needs nothing else is run again at once.
//!
//! **Trust.** At start each kernel family is checked against the CPU backend on odd sizes
//! (`proof`); an adapter that computes wrongly is named and not used.

mod pool;

pub(crate) use pool::DeviceBuffer;
