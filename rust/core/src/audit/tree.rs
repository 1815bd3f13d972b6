//! The Merkle tree of RFC 6962 §2.1.

use sha2::{Digest, Sha256};

/// A hash of the tree.
pub type Hash = [u8; 32];

/// The hash of a leaf: SHA-256(00 | data).
#[must_use]
pub fn leaf_hash(data: &[u8]) -> Hash {
    Sha256::new_with_prefix([0])
        .chain_update(data)
        .finalize()
        .into()
}

/// The hash of a node: SHA-256(01 | left | right).
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut input = [1; 65];
    input[1..33].copy_from_slice(left);
    input[33..].copy_from_slice(right);
    Sha256::digest(input).into()
}

/// The root of the tree without leaves.
#[must_use]
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// The right edge of a tree: the roots of its perfect subtrees, the largest first. All that is
/// needed to add leaves and to know the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    size: u64,
    hashes: Vec<Hash>,
}

impl Range {
    /// A tree's edge from its parts; None if they don't fit the size.
    #[must_use]
    pub fn from_parts(size: u64, hashes: Vec<Hash>) -> Option<Self> {
        (hashes.len() == size.count_ones() as usize).then_some(Self { size, hashes })
    }

    /// Leaves of the tree.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Roots of the perfect subtrees.
    #[must_use]
    pub fn hashes(&self) -> &[Hash] {
        &self.hashes
    }

    /// Adds a leaf. `node` is told of each node that is complete by it, from the leaf upwards, with
    /// its level.
    pub fn push_with(&mut self, leaf: Hash, mut node: impl FnMut(u8, &Hash)) {
        let mut hash = leaf;
        let mut level = 0;
        node(level, &hash);
        let mut rest = self.size;
        while rest & 1 == 1 {
            let left = self
                .hashes
                .pop()
                .expect("one hash for each bit of the size");
            hash = node_hash(&left, &hash);
            level += 1;
            node(level, &hash);
            rest >>= 1;
        }
        self.hashes.push(hash);
        self.size += 1;
    }

    /// Adds a leaf.
    pub fn push(&mut self, leaf: Hash) {
        self.push_with(leaf, |_, _| {});
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.hashes
            .iter()
            .rev()
            .copied()
            .reduce(|right, left| node_hash(&left, &right))
            .unwrap_or_else(empty_root)
    }

    /// The first leaf from which on two trees of one size may differ, by their edges; None where
    /// they are equal.
    #[must_use]
    pub fn first_difference(&self, other: &Self) -> Option<u64> {
        let mut start = 0;
        let mut bits = self.size;
        for (ours, theirs) in self.hashes.iter().zip(&other.hashes) {
            if ours != theirs {
                return Some(start);
            }
            let largest = 1 << bits.ilog2();
            start += largest;
            bits -= largest;
        }
        (self != other).then_some(start)
    }
}

/// Whoever knows the nodes of a tree.
pub trait Nodes {
    /// Why a node can't be had.
    type Error;

    /// The root of the perfect subtree of 2^level leaves that begins at leaf index * 2^level.
    ///
    /// # Errors
    /// The node can't be had.
    fn node(&mut self, level: u8, index: u64) -> Result<Hash, Self::Error>;
}

/// The hash of the leaves from `low` to `high`: MTH of RFC 6962 §2.1.
///
/// # Errors
/// A node can't be had.
pub fn subtree<N: Nodes>(nodes: &mut N, low: u64, high: u64) -> Result<Hash, N::Error> {
    let count = high - low;
    if count == 0 {
        return Ok(empty_root());
    }
    if count.is_power_of_two() {
        let level = count.ilog2() as u8;
        return nodes.node(level, low >> level);
    }
    let middle = low + split(count);
    let left = subtree(nodes, low, middle)?;
    let right = subtree(nodes, middle, high)?;
    Ok(node_hash(&left, &right))
}

/// The largest power of two below `count`.
fn split(count: u64) -> u64 {
    1 << (count - 1).ilog2()
}

/// The inclusion proof of a leaf: PATH of RFC 6962 §2.1.1.
///
/// # Errors
/// A node can't be had.
pub fn inclusion<N: Nodes>(nodes: &mut N, index: u64, size: u64) -> Result<Vec<Hash>, N::Error> {
    let (mut low, mut high) = (0, size);
    let mut proof = Vec::new();
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            proof.push(subtree(nodes, middle, high)?);
            high = middle;
        } else {
            proof.push(subtree(nodes, low, middle)?);
            low = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The consistency proof of two trees: PROOF of RFC 6962 §2.1.2.
///
/// # Errors
/// A node can't be had.
pub fn consistency<N: Nodes>(nodes: &mut N, old: u64, size: u64) -> Result<Vec<Hash>, N::Error> {
    if old == 0 || old == size {
        return Ok(Vec::new());
    }
    let (mut low, mut high) = (0, size);
    let mut proof = Vec::new();
    // Whether the subtree at hand is one of which the old tree's reader knows the root.
    let mut whole = true;
    while old != high {
        let middle = low + split(high - low);
        if old <= middle {
            proof.push(subtree(nodes, middle, high)?);
            high = middle;
        } else {
            proof.push(subtree(nodes, low, middle)?);
            low = middle;
            whole = false;
        }
    }
    if !whole {
        proof.push(subtree(nodes, low, high)?);
    }
    proof.reverse();
    Ok(proof)
}

/// The root that an inclusion proof leads to, or None for one of a wrong length: RFC 9162 §2.1.3.2.
#[must_use]
pub fn root_of_inclusion(proof: &[Hash], index: u64, size: u64, leaf: &Hash) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut node, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for step in proof {
        if last == 0 {
            return None;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(step, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, step);
        }
        node >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Leaves(Vec<Hash>);

    impl Nodes for Leaves {
        type Error = ();

        fn node(&mut self, level: u8, index: u64) -> Result<Hash, ()> {
            let start = (index << level) as usize;
            let mut range = Range::default();
            for leaf in self.0.get(start..start + (1 << level)).ok_or(())? {
                range.push(*leaf);
            }
            Ok(range.root())
        }
    }

    fn leaves(count: u8) -> Leaves {
        Leaves((0..count).map(|number| leaf_hash(&[number])).collect())
    }

    #[test]
    fn roots_and_inclusion() {
        let mut nodes = leaves(40);
        let mut range = Range::default();
        for size in 0..40u64 {
            let root = range.root();
            assert_eq!(subtree(&mut nodes, 0, size), Ok(root));
            for index in 0..size {
                let proof = inclusion(&mut nodes, index, size).expect("all nodes");
                let leaf = nodes.0[index as usize];
                assert_eq!(root_of_inclusion(&proof, index, size, &leaf), Some(root));
                if size > 1 {
                    assert_ne!(
                        root_of_inclusion(&proof, (index + 1) % size, size, &leaf),
                        Some(root)
                    );
                    assert_eq!(root_of_inclusion(&proof[1..], index, size, &leaf), None);
                }
            }
            range.push(nodes.0[size as usize]);
        }
    }

    #[test]
    fn differences() {
        let mut one = Range::default();
        let mut two = Range::default();
        for leaf in leaves(7).0 {
            one.push(leaf);
            two.push(leaf);
        }
        assert_eq!(one.first_difference(&two), None);
        one.push(leaf_hash(b"1"));
        two.push(leaf_hash(b"2"));
        one.push(leaf_hash(b"3"));
        two.push(leaf_hash(b"3"));
        assert_eq!(one.first_difference(&two), Some(0));
        one.push(leaf_hash(b"4"));
        two.push(leaf_hash(b"5"));
        two.hashes[0] = one.hashes[0];
        assert_eq!(one.first_difference(&two), Some(8));
    }
}
