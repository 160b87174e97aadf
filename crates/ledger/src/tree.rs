//! The Merkle tree of RFC 6962 section 2.1 over the lines, kept as its frontier: the roots of the perfect subtrees that
//! the leaves so far consist of. That is at most 64 hashes, and all that is needed to go on and to compute the root.

use crate::hash::Hash;

/// The right edge of a tree: size and the roots of its perfect subtrees, the largest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// The frontier of `size` leaves with these subtree roots, the largest first. `None` unless there is exactly one
    /// for each bit that is set in `size`.
    #[must_use]
    pub fn from_parts(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (usize::try_from(size.count_ones()).is_ok_and(|n| n == peaks.len())).then_some(Self { size, peaks })
    }

    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Roots of the perfect subtrees, the largest first.
    #[must_use]
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// Adds the next leaf; `leaf` is its leaf hash. Amortised one inner hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut root = leaf;
        let mut level = self.size;
        while level & 1 == 1
            && let Some(left) = self.peaks.pop()
        {
            root = Hash::node(&left, &root);
            level >>= 1;
        }
        self.peaks.push(root);
        self.size = self.size.saturating_add(1);
    }

    /// The Merkle tree hash of all leaves so far; of none, the hash of the empty string.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut smallest_first = self.peaks.iter().rev();
        match smallest_first.next() {
            None => Hash::of(b""),
            Some(last) => smallest_first.fold(*last, |right, left| Hash::node(left, &right)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 6962 section 2.1, word for word.
    fn naive(leaves: &[Vec<u8>]) -> Hash {
        match leaves {
            [] => Hash::of(b""),
            [one] => Hash::leaf(one),
            _ => {
                let k = leaves.len().next_power_of_two() / 2;
                Hash::node(&naive(&leaves[..k]), &naive(&leaves[k..]))
            }
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        text.as_bytes().chunks(2).map(|p| u8::from_str_radix(str::from_utf8(p).unwrap(), 16).unwrap()).collect()
    }

    /// Inputs and roots of Certificate Transparency's reference implementation (merkle_tree_test.cc).
    #[test]
    fn known_vectors() {
        let leaves =
            ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = Frontier::default();
        assert_eq!(tree.root().to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        for (leaf, root) in leaves.iter().zip(roots) {
            tree.push(Hash::leaf(&hex(leaf)));
            assert_eq!(tree.root().to_string(), root, "at size {}", tree.size());
        }
    }

    proptest! {
        #[test]
        fn equals_the_definition(leaves in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5), 0..70)) {
            let mut tree = Frontier::default();
            for (n, leaf) in leaves.iter().enumerate() {
                prop_assert_eq!(tree.root(), naive(&leaves[..n]));
                tree.push(Hash::leaf(leaf));
            }
            prop_assert_eq!(tree.root(), naive(&leaves));
            prop_assert_eq!(tree.size(), leaves.len() as u64);
        }

        #[test]
        fn goes_on_from_its_parts(before in 0_u64..200, after in 0_u64..200) {
            let mut whole = Frontier::default();
            (0..before).for_each(|n| whole.push(Hash::leaf(&n.to_le_bytes())));
            let mut resumed = Frontier::from_parts(whole.size(), whole.peaks().to_vec()).expect("its own parts");
            for n in 0..after {
                whole.push(Hash::leaf(&n.to_be_bytes()));
                resumed.push(Hash::leaf(&n.to_be_bytes()));
            }
            prop_assert_eq!(whole, resumed);
        }
    }

    #[test]
    fn refuses_parts_that_do_not_fit() {
        assert_eq!(Frontier::from_parts(3, vec![Hash::ZERO]), None);
        assert_eq!(Frontier::from_parts(0, vec![Hash::ZERO]), None);
        assert!(Frontier::from_parts(3, vec![Hash::ZERO; 2]).is_some());
    }
}
