//! Hostile components: what each tries, how it ends, how soon, and what of it stays in the host's
//! memory. `--nocapture` prints the table. Also to be found elsewhere: hostile messages (`bad_input`),
//! misbehaviour that a toolchain can make (`bad_plugin`), hostile files of compiled code and what is made
//! to hurt the compiler (`compile`), logs and terminal escapes (`sandbox`).
//!
//! wasmtime's advisories of 2024 to 2026 that concern a host as this one is, and are cases here:
//! RUSTSEC-2026-0570 (garbage collection left on in a build without it), RUSTSEC-2026-0327 and
//! CVE-2026-119140 (component async), RUSTSEC-2024-0440 (tail calls), RUSTSEC-2025-0118 and
//! RUSTSEC-2024-0439 (shared memory), RUSTSEC-2026-0114 (tables larger than the address space),
//! RUSTSEC-2026-0223 (bulk operations that are interrupted), RUSTSEC-2026-0091, -0092 and -0093 (strings
//! in UTF-16), RUSTSEC-2026-0020 and CVE-2026-119134 (handles and lists without end), RUSTSEC-2026-0316
//! (lists that grow while they are lifted), RUSTSEC-2026-0022 (a call dropped while it waits),
//! CVE-2026-119141 (calls out of `realloc`), RUSTSEC-2026-0085 (values with bits too many).

mod bombs;
mod calls;
mod files;
mod lies;
mod loads;
