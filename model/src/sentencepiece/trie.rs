//! A byte trie: all keys that a text starts with.

use std::collections::VecDeque;

/// Keys and their values; children of a node lie side by side, in order of their bytes.
#[derive(Debug, Default)]
pub(super) struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    byte: u8,
    value: Option<u32>,
    children: std::ops::Range<usize>,
}

impl Trie {
    /// Of keys without repetition.
    pub(super) fn new<'a>(keys: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let mut keys: Vec<(&[u8], u32)> = keys.into_iter().map(|(key, value)| (key.as_bytes(), value)).collect();
        if keys.is_empty() {
            return Trie::default();
        }
        keys.sort_unstable();
        let mut nodes = vec![Node { byte: 0, value: None, children: 0..0 }];
        // Nodes whose children are not made yet: the node, its depth, its keys.
        let mut open = VecDeque::from([(0, 0, keys.as_slice())]);
        while let Some((at, depth, mut keys)) = open.pop_front() {
            if let [(key, value), longer @ ..] = keys
                && key.len() == depth
            {
                nodes[at].value = Some(*value);
                keys = longer;
            }
            let first = nodes.len();
            for group in keys.chunk_by(|(a, _), (b, _)| a.get(depth) == b.get(depth)) {
                if let Some(&byte) = group.first().and_then(|(key, _)| key.get(depth)) {
                    open.push_back((nodes.len(), depth + 1, group));
                    nodes.push(Node { byte, value: None, children: 0..0 });
                }
            }
            nodes[at].children = first..nodes.len();
        }
        Trie { nodes }
    }

    /// Length and value of every key that `text` starts with, short ones first.
    pub(super) fn prefixes<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, u32)> + 'a {
        let steps = text.iter().scan(self.nodes.first(), |node, &byte| {
            *node = self.child((*node)?, byte);
            *node
        });
        steps.enumerate().filter_map(|(i, node)| Some((i + 1, node.value?)))
    }

    /// Length of the longest key that `text` starts with, among the 64 shortest: the package looks at no more.
    pub(super) fn longest(&self, text: &[u8]) -> Option<usize> {
        self.prefixes(text).take(64).last().map(|(length, _)| length)
    }

    fn child(&self, node: &Node, byte: u8) -> Option<&Node> {
        let children = self.nodes.get(node.children.clone())?;
        let found = children.binary_search_by_key(&byte, |child| child.byte).ok()?;
        children.get(found)
    }
}

#[cfg(test)]
mod tests {
    use super::Trie;

    #[test]
    fn finds_every_prefix() {
        let trie = Trie::new([("abc", 3), ("a", 1), ("ab", 2), ("b", 4), ("é", 5)]);
        assert_eq!(trie.prefixes(b"abd").collect::<Vec<_>>(), [(1, 1), (2, 2)]);
        assert_eq!(trie.prefixes("éa".as_bytes()).collect::<Vec<_>>(), [(2, 5)]);
        assert_eq!(trie.longest(b"abcabc"), Some(3));
        assert_eq!(trie.longest(b"c"), None);
        assert_eq!(Trie::default().longest(b"a"), None);
    }
}
