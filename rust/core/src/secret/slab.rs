//! The arena's bookkeeping: which slot of which block is free. Numbers only, no memory, so that
//! it is safe code and can be tested against a model.
#![forbid(unsafe_code)]

/// The unit that is given to one size class at a time. Regions are whole blocks; the system's page
/// may be larger.
pub(super) const BLOCK: usize = 4096;

/// Bytes kept for the canary behind each secret, at least.
pub(super) const CANARY_LEN: usize = 16;

/// Slot lengths, canary included: 32-byte keys, and what else there is, up to a key schedule.
pub(super) const SLOT_LENS: [usize; 7] = [48, 64, 128, 256, 512, 1024, 2048];

/// The longest secret that shares a block.
pub(super) const SMALL_MAX: usize = SLOT_LENS[SLOT_LENS.len() - 1] - CANARY_LEN;

const SLOTS_MAX: usize = BLOCK / SLOT_LENS[0];
const WORDS: usize = SLOTS_MAX.div_ceil(64);
const NOWHERE: u32 = u32::MAX;

/// The class for a secret of `len` bytes at a multiple of `align`, or None: it needs own pages.
pub(super) fn class_of(len: usize, align: usize) -> Option<usize> {
    SLOT_LENS
        .iter()
        .position(|&slot| len <= slot - CANARY_LEN && slot % align == 0)
}

/// A slot's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) block: u32,
    pub(super) slot: u16,
}

#[derive(Clone, Debug)]
struct Block {
    region: u32,
    /// Which block of its region it is.
    index: u32,
    class: Option<usize>,
    used: u16,
    bits: [u64; WORDS],
    /// Its place in the list it is in: `free`, or its class's `partial`; NOWHERE when full.
    position: u32,
}

#[derive(Clone, Debug)]
struct Region {
    blocks: Vec<u32>,
    busy: u32,
}

/// Blocks and slots of all regions.
#[derive(Default)]
pub(super) struct Slabs {
    blocks: Vec<Block>,
    regions: Vec<Option<Region>>,
    free: Vec<u32>,
    partial: [Vec<u32>; SLOT_LENS.len()],
    /// Block numbers of regions that are gone, to be used again.
    spare: Vec<u32>,
}

impl Slabs {
    /// Takes over a region of `count` blocks and names it; its memory is all zeros.
    pub(super) fn add_region(&mut self, count: usize) -> usize {
        let id = self
            .regions
            .iter()
            .position(Option::is_none)
            .unwrap_or_else(|| {
                self.regions.push(None);
                self.regions.len() - 1
            });
        let mut blocks = Vec::with_capacity(count);
        for index in 0..count as u32 {
            let block = Block {
                region: id as u32,
                index,
                class: None,
                used: 0,
                bits: [0; WORDS],
                position: NOWHERE,
            };
            let number = if let Some(number) = self.spare.pop() {
                self.blocks[number as usize] = block;
                number
            } else {
                self.blocks.push(block);
                self.blocks.len() as u32 - 1
            };
            blocks.push(number);
        }
        // Last in, first out: the region is filled from its start.
        for &number in blocks.iter().rev() {
            push(&mut self.free, &mut self.blocks, number);
        }
        self.regions[id] = Some(Region { blocks, busy: 0 });
        id
    }

    /// A free slot of `class`, or None: a region must be added first.
    pub(super) fn allocate(&mut self, class: usize) -> Option<Place> {
        let number = match self.partial[class].last() {
            Some(&number) => number,
            None => {
                let number = *self.free.last()?;
                remove(&mut self.free, &mut self.blocks, number);
                self.blocks[number as usize].class = Some(class);
                self.region_mut(number).busy += 1;
                push(&mut self.partial[class], &mut self.blocks, number);
                number
            }
        };
        let block = &mut self.blocks[number as usize];
        let slot = first_zero(&block.bits);
        block.bits[slot / 64] |= 1 << (slot % 64);
        block.used += 1;
        if usize::from(block.used) == slots_of(class) {
            remove(&mut self.partial[class], &mut self.blocks, number);
        }
        Some(Place {
            block: number,
            slot: slot as u16,
        })
    }

    /// Gives a slot back, which the caller has zeroed. Returns the region if no slot of it is in
    /// use any more.
    ///
    /// # Panics
    ///
    /// When the slot is not in use.
    pub(super) fn free(&mut self, place: Place) -> Option<usize> {
        let number = place.block;
        let block = &mut self.blocks[number as usize];
        let class = block.class.expect("a block in use has a class");
        let (word, bit) = (usize::from(place.slot) / 64, 1 << (place.slot % 64));
        assert!(block.bits[word] & bit != 0, "a slot is freed once");
        block.bits[word] &= !bit;
        let was_full = usize::from(block.used) == slots_of(class);
        block.used -= 1;
        let empty = block.used == 0;
        if was_full {
            push(&mut self.partial[class], &mut self.blocks, number);
        }
        if !empty {
            return None;
        }
        remove(&mut self.partial[class], &mut self.blocks, number);
        self.blocks[number as usize].class = None;
        push(&mut self.free, &mut self.blocks, number);
        let region = self.region_mut(number);
        region.busy -= 1;
        let id = self.blocks[number as usize].region as usize;
        (self.region_at(id).busy == 0).then_some(id)
    }

    /// Forgets a region of which no slot is in use.
    ///
    /// # Panics
    ///
    /// When one is.
    pub(super) fn remove_region(&mut self, id: usize) {
        let region = self.regions[id].take().expect("a region that is there");
        assert_eq!(region.busy, 0, "a region is removed when it is empty");
        for number in region.blocks {
            remove(&mut self.free, &mut self.blocks, number);
            self.spare.push(number);
        }
    }

    /// Blocks that belong to no class yet.
    pub(super) fn free_blocks(&self) -> usize {
        self.free.len()
    }

    /// The number of blocks of a region.
    pub(super) fn region_blocks(&self, id: usize) -> usize {
        self.region_at(id).blocks.len()
    }

    /// Region, offset from its start, and length of the slot.
    pub(super) fn locate(&self, place: Place) -> (usize, usize, usize) {
        let block = &self.blocks[place.block as usize];
        let slot_len = SLOT_LENS[block.class.expect("a block in use has a class")];
        let offset = block.index as usize * BLOCK + usize::from(place.slot) * slot_len;
        (block.region as usize, offset, slot_len)
    }

    fn region_at(&self, id: usize) -> &Region {
        self.regions[id]
            .as_ref()
            .expect("a block's region is there")
    }

    fn region_mut(&mut self, block: u32) -> &mut Region {
        let id = self.blocks[block as usize].region as usize;
        self.regions[id]
            .as_mut()
            .expect("a block's region is there")
    }
}

fn slots_of(class: usize) -> usize {
    BLOCK / SLOT_LENS[class]
}

fn first_zero(bits: &[u64; WORDS]) -> usize {
    let word = bits
        .iter()
        .position(|&word| word != u64::MAX)
        .expect("a partial block has room");
    word * 64 + (!bits[word]).trailing_zeros() as usize
}

fn push(list: &mut Vec<u32>, blocks: &mut [Block], number: u32) {
    blocks[number as usize].position = list.len() as u32;
    list.push(number);
}

fn remove(list: &mut Vec<u32>, blocks: &mut [Block], number: u32) {
    let position = blocks[number as usize].position as usize;
    list.swap_remove(position);
    if let Some(&moved) = list.get(position) {
        blocks[moved as usize].position = position as u32;
    }
    blocks[number as usize].position = NOWHERE;
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Add(usize),
        Allocate(usize),
        Free(usize),
        Remove(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            1 => (1..9_usize).prop_map(Step::Add),
            20 => (0..SLOT_LENS.len()).prop_map(Step::Allocate),
            17 => any::<usize>().prop_map(Step::Free),
            2 => any::<usize>().prop_map(Step::Remove),
        ]
    }

    /// What an allocator must do, kept in the plainest way: byte ranges in use, by region.
    #[derive(Default)]
    struct Model {
        regions: HashMap<usize, usize>,
        live: Vec<(Place, usize, usize, usize)>,
    }

    impl Model {
        fn used_in(&self, region: usize) -> usize {
            self.live.iter().filter(|l| l.1 == region).count()
        }

        /// Blocks in use, or with room for one more of `class`, by counting.
        fn has_room(&self, class: usize) -> bool {
            let slot_len = SLOT_LENS[class];
            self.regions.iter().any(|(&region, &blocks)| {
                (0..blocks).any(|block| {
                    let inside: Vec<_> = self
                        .live
                        .iter()
                        .filter(|l| l.1 == region && l.2 / BLOCK == block)
                        .collect();
                    inside.is_empty() || inside[0].3 == slot_len && inside.len() < BLOCK / slot_len
                })
            })
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_the_model(steps in prop::collection::vec(step(), 1..400)) {
            let mut slabs = Slabs::default();
            let mut model = Model::default();
            for step in steps {
                match step {
                    Step::Add(blocks) => {
                        let id = slabs.add_region(blocks);
                        prop_assert!(model.regions.insert(id, blocks).is_none());
                    }
                    Step::Allocate(class) => {
                        let room = model.has_room(class);
                        let place = slabs.allocate(class);
                        prop_assert_eq!(place.is_some(), room);
                        let Some(place) = place else { continue };
                        let (region, offset, len) = slabs.locate(place);
                        prop_assert_eq!(len, SLOT_LENS[class]);
                        prop_assert!(offset + len <= model.regions[&region] * BLOCK);
                        for other in model.live.iter().filter(|l| l.1 == region) {
                            prop_assert!(offset + len <= other.2 || other.2 + other.3 <= offset);
                        }
                        model.live.push((place, region, offset, len));
                    }
                    Step::Free(which) => {
                        if model.live.is_empty() {
                            continue;
                        }
                        let (place, region, ..) = model.live.swap_remove(which % model.live.len());
                        let empty = (model.used_in(region) == 0).then_some(region);
                        prop_assert_eq!(slabs.free(place), empty);
                    }
                    Step::Remove(which) => {
                        let mut empty: Vec<_> = model.regions.keys().copied()
                            .filter(|&r| model.used_in(r) == 0).collect();
                        empty.sort_unstable();
                        if empty.is_empty() {
                            continue;
                        }
                        let id = empty[which % empty.len()];
                        prop_assert_eq!(slabs.region_blocks(id), model.regions[&id]);
                        slabs.remove_region(id);
                        model.regions.remove(&id);
                    }
                }
                let busy: usize = model.regions.iter().map(|(&region, &blocks)| {
                    (0..blocks).filter(|&block| model.live.iter()
                        .any(|l| l.1 == region && l.2 / BLOCK == block)).count()
                }).sum();
                let all: usize = model.regions.values().sum();
                prop_assert_eq!(slabs.free_blocks(), all - busy);
            }
        }
    }

    #[test]
    #[should_panic(expected = "a slot is freed once")]
    fn a_second_free_is_seen() {
        let mut slabs = Slabs::default();
        slabs.add_region(1);
        let kept = slabs.allocate(0).expect("room");
        let place = slabs.allocate(0).expect("room");
        assert_ne!(kept, place);
        slabs.free(place);
        slabs.free(place);
    }

    #[test]
    fn classes_hold_length_canary_and_alignment() {
        for len in 0..=SMALL_MAX {
            for align in [1, 2, 4, 8, 16, 32, 64] {
                let class = class_of(len, align).expect("a small secret has a class");
                assert!(len + CANARY_LEN <= SLOT_LENS[class]);
                assert_eq!(SLOT_LENS[class] % align, 0);
            }
        }
        assert_eq!(class_of(32, 1), Some(0));
        assert_eq!(class_of(SMALL_MAX + 1, 1), None);
        assert_eq!(class_of(32, 4096), None);
    }
}
