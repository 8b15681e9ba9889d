//! Exchanges: from a routing key to the queues that get the message.

use std::collections::HashMap;
use std::sync::Arc;

use crate::broker::ExchangeKind;

/// An exchange and its bindings.
pub(super) struct Exchange {
    pub kind: ExchangeKind,
    /// Where what is routed nowhere goes.
    pub alternate: Option<String>,
    /// Queues by binding key; in a topic exchange only keys without wildcards.
    exact: HashMap<String, Vec<Arc<str>>>,
    /// A topic exchange's bindings with `*` or `#`.
    patterns: Vec<(String, Arc<str>)>,
    /// A fanout exchange's queues.
    all: Vec<Arc<str>>,
}

impl Exchange {
    pub fn new(kind: ExchangeKind, alternate: Option<String>) -> Self {
        Self { kind, alternate, exact: HashMap::new(), patterns: Vec::new(), all: Vec::new() }
    }

    pub fn bind(&mut self, key: &str, queue: &Arc<str>) {
        let wild = key.split('.').any(|word| word == "*" || word == "#");
        match self.kind {
            ExchangeKind::Fanout => add(&mut self.all, queue),
            ExchangeKind::Topic if wild => {
                if !self.patterns.iter().any(|(k, q)| k == key && q == queue) {
                    self.patterns.push((key.to_owned(), Arc::clone(queue)));
                }
            }
            ExchangeKind::Topic | ExchangeKind::Direct => {
                add(self.exact.entry(key.to_owned()).or_default(), queue)
            }
        }
    }

    pub fn unbind_queue(&mut self, queue: &str) {
        self.all.retain(|q| &**q != queue);
        self.patterns.retain(|(_, q)| &**q != queue);
        self.exact.retain(|_, queues| {
            queues.retain(|q| &**q != queue);
            !queues.is_empty()
        });
    }

    /// The queues for `key`, each once.
    pub fn route(&self, key: &str) -> Vec<Arc<str>> {
        if self.kind == ExchangeKind::Fanout {
            return self.all.clone();
        }
        let mut queues = self.exact.get(key).cloned().unwrap_or_default();
        for (pattern, queue) in &self.patterns {
            if matches(pattern, key) {
                add(&mut queues, queue);
            }
        }
        queues
    }
}

fn add(queues: &mut Vec<Arc<str>>, queue: &Arc<str>) {
    if !queues.contains(queue) {
        queues.push(Arc::clone(queue));
    }
}

/// Whether a topic binding matches: `*` is one word, `#` any number of them. A mismatch goes back to
/// the last `#` only, which an earlier one could not better: linear in words times words.
pub(super) fn matches(pattern: &str, key: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('.').collect();
    // An empty key has no words.
    let key: Vec<&str> = if key.is_empty() { Vec::new() } else { key.split('.').collect() };
    let (mut p, mut k) = (0, 0);
    // After the last `#`, and the key's word to try it from next.
    let mut back: Option<(usize, usize)> = None;
    while k < key.len() {
        match pattern.get(p) {
            Some(&"#") => {
                p += 1;
                back = Some((p, k));
            }
            Some(&word) if word == "*" || word == key[k] => {
                p += 1;
                k += 1;
            }
            _ => match &mut back {
                Some((after, from)) => {
                    *from += 1;
                    (p, k) = (*after, *from);
                }
                None => return false,
            },
        }
    }
    // An empty pattern has no words either.
    pattern[p..].iter().all(|word| *word == "#" || (word.is_empty() && pattern.len() == 1))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn topics_match_by_words() {
        for (pattern, key, expected) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a", "a.b", false),
            ("a.b", "a", false),
            ("*", "a", true),
            ("*", "a.b", false),
            ("*", "", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("*.b", "a.b", true),
            ("#", "", true),
            ("#", "a.b.c", true),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("a.#", "b", false),
            ("#.c", "a.b.c", true),
            ("#.c", "c", true),
            ("#.c", "c.d", false),
            ("a.#.c", "a.c", true),
            ("a.#.c", "a.b.b.c", true),
            ("a.#.c", "a.c.b", false),
            ("#.a.#.b.#", "x.a.x.b", true),
            ("#.a.#.b.#", "x.b.x.a", false),
            ("#.*", "", false),
            ("#.*", "a", true),
            ("*.#", "a.b", true),
            ("", "", true),
            ("", "a", false),
            ("a*", "ab", false),
        ] {
            assert_eq!(matches(pattern, key), expected, "{pattern:?} {key:?}");
        }
    }
}
