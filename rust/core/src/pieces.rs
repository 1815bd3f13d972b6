//! How the output of a large call is shared out: in pieces of its units, chunks or records.

use std::ops::Range;

use crate::params::HUGE_PAGE;

/// The pieces of `units` units that make `unit_len` bytes of output each, for `workers` threads:
/// ranges of units, in order. A piece is a share of what is left, so that all threads end together
/// (guided self-scheduling, Polychronopoulos and Kuck, IEEE Transactions on Computers C-36, 1987);
/// it has at least `least` units and at most a huge page's length. Long pieces keep two threads
/// from the first write to one huge page: both would clear it.
pub fn pieces(
    units: usize,
    unit_len: usize,
    least: usize,
    workers: usize,
) -> impl Iterator<Item = Range<usize>> {
    let most = HUGE_PAGE.div_ceil(unit_len).max(least);
    let mut start = 0;
    std::iter::from_fn(move || {
        let left = units - start;
        let len = (left / (2 * workers)).clamp(least, most).min(left);
        let piece = start..start + len;
        start = piece.end;
        (len > 0).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::pieces;
    use crate::params::HUGE_PAGE;

    #[test]
    fn pieces_are_all_units_once_and_in_order() {
        for unit_len in [1, 93, 16_400, HUGE_PAGE, HUGE_PAGE + 1, usize::MAX] {
            for units in [0, 1, 3, 4, 5, 511, 512, 4_096, 100_003] {
                for least in [1, 4, 188] {
                    for workers in [1, 2, 3, 64] {
                        let mut next = 0;
                        for piece in pieces(units, unit_len, least, workers) {
                            assert_eq!(piece.start, next);
                            assert!(piece.len() >= least || piece.end == units);
                            assert!(!piece.is_empty());
                            next = piece.end;
                        }
                        assert_eq!(next, units);
                    }
                }
            }
        }
    }

    #[test]
    fn pieces_have_a_huge_page_each_and_become_short_at_the_end() {
        let lengths: Vec<_> = pieces(4_096, 16_400, 4, 2)
            .map(|piece| piece.len())
            .collect();
        assert!(lengths.is_sorted_by(|a, b| a >= b));
        assert_eq!(lengths[..28], [128; 28]);
        assert_eq!(lengths[lengths.len() - 5..lengths.len() - 1], [4; 4]);
        // Sixteen threads share a short output: no piece is more than a part of one's share.
        let longest = pieces(512, 16_400, 4, 16).map(|piece| piece.len()).max();
        assert_eq!(longest, Some(16));
    }
}
