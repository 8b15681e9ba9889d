//! What the oracle found, as rows of one table: printed, and kept as JSON lines in `target/faults`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// One line of the fault table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// Which.
    pub fault: String,
    /// How often it was done.
    pub runs: usize,
    /// Jobs that the broker confirmed.
    pub jobs: usize,
    /// Those without an end.
    pub lost: usize,
    /// Final events and letters beyond the first, as they arrived.
    pub duplicates_before: usize,
    /// Ends beyond the first after a client's dropping.
    pub duplicates_after: usize,
    /// Jobs with a result whose repetition failed, so that there is a dead letter of a later attempt.
    pub letters_after_result: usize,
    /// The longest silence between ends from a fault until no job was open; without
    /// [`super::Oracle::fault`] the longest of all while jobs were.
    pub worst_recovery_s: f64,
    /// The longest time from a job's confirm to its end.
    pub slowest_job_s: f64,
    /// Jobs that an attempt above the first ended.
    pub retried: usize,
    /// The highest attempt that was heard of.
    pub highest_attempt: u32,
    /// Statuses that are missing among the accepted events.
    pub gaps: usize,
    /// How many ended how.
    pub ends: BTreeMap<String, usize>,
    /// Rules that were broken.
    pub wrong: usize,
}

/// A row, and what is wrong in words.
#[derive(Debug)]
pub struct Report {
    /// For the table.
    pub row: Row,
    /// Every broken rule.
    pub wrong: Vec<String>,
}

impl Report {
    /// Prints the row. Panics when a rule was broken.
    pub fn right(&self) {
        println!("{}{:?}", table(std::slice::from_ref(&self.row)), self.row.ends);
        assert!(self.wrong.is_empty(), "{}: {:#?}", self.row.fault, &self.wrong[..self.wrong.len().min(5)]);
    }

    /// The same, and panics too when a job ended otherwise.
    pub fn all(&self, how: &str) {
        self.right();
        let due = BTreeMap::from([(how.to_owned(), self.row.jobs)]);
        assert_eq!(self.row.ends, due, "{}: some jobs did not end with {how}", self.row.fault);
    }
}

/// The table of these rows.
pub fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|r| r.fault.len()).chain([5]).max().unwrap_or(5);
    let mut text = format!(
        "{:<width$} {:>6} {:>7} {:>5} {:>11} {:>11} {:>10} {:>9}\n{:<width$} {:>6} {:>7} {:>5} {:>11} {:>11} {:>10} {:>9}\n",
        "",
        "",
        "",
        "",
        "duplicates",
        "duplicates",
        "worst",
        "slowest",
        "fault",
        "runs",
        "jobs",
        "lost",
        "before",
        "after",
        "recovery",
        "job",
    );
    for r in rows {
        text += &format!(
            "{:<width$} {:>6} {:>7} {:>5} {:>11} {:>11} {:>8.2} s {:>7.2} s\n",
            r.fault,
            r.runs,
            r.jobs,
            r.lost,
            r.duplicates_before,
            r.duplicates_after,
            r.worst_recovery_s,
            r.slowest_job_s,
        );
    }
    text
}

/// Where rows are kept, one file each.
fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/faults")
}

/// The rows of all fault tests that ran on this tree, by name.
pub fn collected() -> Vec<Row> {
    let mut rows = Vec::new();
    for entry in std::fs::read_dir(kept()).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        rows.extend(text.lines().filter_map(|line| serde_json::from_str::<Row>(line).ok()));
    }
    rows.sort_by(|a, b| a.fault.cmp(&b.fault));
    rows
}

/// Keeps the row, instead of an older one of the same fault.
pub(super) fn keep(row: &Row) -> anyhow::Result<()> {
    let dir = kept();
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let slug: String = row.fault.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let path = dir.join(format!("{slug}.jsonl"));
    std::fs::write(&path, serde_json::to_string(row)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))
}
