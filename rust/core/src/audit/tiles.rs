//! The index beside a log: c2sp.org/tlog-tiles, hash tiles alone. Writers never need it; a proof from
//! it is checked against a checkpoint before it is given out, so it can't lie for long.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::paths;
use super::tree::{Hash, Nodes, node_hash};

/// Levels of the tree in one tile (tlog-tiles: fixed).
const HEIGHT: u8 = 8;
/// Hashes of a full tile.
const WIDTH: u64 = 1 << HEIGHT;
const HASH: usize = 32;

/// The path of a tile under the index's folder.
fn tile_path(folder: &Path, level: u8, index: u64, width: u64) -> PathBuf {
    // Groups of three digits, all but the last with an x before them.
    let mut groups = vec![format!("{:03}", index % 1000)];
    let mut rest = index / 1000;
    while rest > 0 {
        groups.push(format!("x{:03}", rest % 1000));
        rest /= 1000;
    }
    let mut path = folder.join("tile").join(level.to_string());
    for group in groups.iter().rev() {
        path.push(group);
    }
    if width < WIDTH {
        let mut name = path.into_os_string();
        name.push(".p");
        path = PathBuf::from(name).join(width.to_string());
    }
    path
}

/// Hashes that a level of tiles has in a tree of that size.
fn count(size: u64, level: u8) -> u64 {
    size.checked_shr(u32::from(level) * u32::from(HEIGHT))
        .unwrap_or(0)
}

/// Writes tiles as the tree grows.
#[derive(Debug)]
pub struct Builder {
    folder: PathBuf,
    /// Leaves that the index is to have, no more.
    limit: u64,
    leaves: u64,
    /// Leaves that were indexed before: their full tiles are there.
    known: u64,
    levels: Vec<Level>,
    failed: Option<io::Error>,
}

#[derive(Debug, Default)]
struct Level {
    index: u64,
    hashes: Vec<u8>,
}

impl Builder {
    /// An index from the first leaf on; full tiles for `known` leaves are not written again.
    #[must_use]
    pub fn new(folder: &Path, known: u64, limit: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            limit,
            leaves: 0,
            known,
            levels: Vec::new(),
            failed: None,
        }
    }

    /// Goes on with an index of `size` leaves.
    ///
    /// # Errors
    /// A tile can't be read or is not whole.
    pub fn resume(folder: &Path, size: u64, limit: u64) -> io::Result<Self> {
        let mut levels = Vec::new();
        for level in 0..=HEIGHT {
            let count = count(size, level);
            if count == 0 {
                break;
            }
            let width = count % WIDTH;
            let index = count / WIDTH;
            let hashes = if width == 0 {
                Vec::new()
            } else {
                read_tile(&tile_path(folder, level, index, width), width)?
            };
            levels.push(Level { index, hashes });
        }
        Ok(Self {
            leaves: size,
            known: size,
            levels,
            ..Self::new(folder, size, limit)
        })
    }

    /// Takes a node of the tree, as [`super::tree::Range::push_with`] tells of it.
    pub fn node(&mut self, level: u8, hash: &Hash) {
        if level == 0 {
            self.leaves += 1;
        }
        if self.leaves > self.limit || self.failed.is_some() || !level.is_multiple_of(HEIGHT) {
            return;
        }
        let number = level / HEIGHT;
        if self.levels.len() <= usize::from(number) {
            self.levels.push(Level::default());
        }
        let level = &mut self.levels[usize::from(number)];
        level.hashes.extend_from_slice(hash);
        if level.hashes.len() == WIDTH as usize * HASH {
            if level.index >= count(self.known, number) / WIDTH {
                let path = tile_path(&self.folder, number, level.index, WIDTH);
                if let Err(error) = write_tile(&path, &level.hashes) {
                    self.failed = Some(error);
                }
            }
            level.hashes.clear();
            level.index += 1;
        }
    }

    /// Writes the tiles that are not full, and says with the checkpoint how far the index goes.
    ///
    /// # Errors
    /// A tile could not be written, or fewer leaves came than the checkpoint covers.
    pub fn finish(mut self, note: &[u8]) -> io::Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if self.leaves < self.limit {
            return Err(io::Error::other("fewer records than the checkpoint covers"));
        }
        for (number, level) in self.levels.iter().enumerate() {
            let number = u8::try_from(number).expect("nine levels hold 2^72 leaves");
            let full = tile_path(&self.folder, number, level.index, WIDTH);
            // Narrower ones of the same tile, and those of the one before, are of no use now.
            for index in level.index.saturating_sub(1)..=level.index {
                let partial = tile_path(&self.folder, number, index, 1);
                let _ = fs::remove_dir_all(partial.parent().unwrap_or(&full));
            }
            let width = (level.hashes.len() / HASH) as u64;
            if width > 0 {
                let path = tile_path(&self.folder, number, level.index, width);
                write_tile(&path, &level.hashes)?;
            }
        }
        fs::create_dir_all(&self.folder)?;
        paths::replace(&checkpoint_path(&self.folder), note, 0o644, false)
    }
}

/// Where the index says how far it goes.
#[must_use]
pub fn checkpoint_path(folder: &Path) -> PathBuf {
    folder.join("checkpoint")
}

fn write_tile(path: &Path, hashes: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    // By another name first: a tile that is there is whole. (No sync: a lost one is made anew.)
    paths::replace(path, hashes, 0o644, false)
}

fn read_tile(path: &Path, width: u64) -> io::Result<Vec<u8>> {
    let hashes = fs::read(path)?;
    if hashes.len() as u64 != width * HASH as u64 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a tile of another length",
        ));
    }
    Ok(hashes)
}

/// Reads nodes from an index of `size` leaves.
#[derive(Debug)]
pub struct Reader {
    folder: PathBuf,
    size: u64,
    tiles: HashMap<(u8, u64), Vec<u8>>,
}

impl Reader {
    /// An index that goes so far.
    #[must_use]
    pub fn new(folder: &Path, size: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            size,
            tiles: HashMap::new(),
        }
    }
}

impl Nodes for Reader {
    type Error = io::Error;

    fn node(&mut self, level: u8, index: u64) -> io::Result<Hash> {
        let (number, within) = (level / HEIGHT, level % HEIGHT);
        let start = index << within;
        let tile = start / WIDTH;
        if !self.tiles.contains_key(&(number, tile)) {
            let width = count(self.size, number)
                .saturating_sub(tile * WIDTH)
                .min(WIDTH);
            let path = tile_path(&self.folder, number, tile, width);
            self.tiles.insert((number, tile), read_tile(&path, width)?);
        }
        let begin = (start % WIDTH) as usize * HASH;
        let hashes = self.tiles[&(number, tile)]
            .get(begin..begin + (HASH << within))
            .ok_or_else(|| io::Error::other("the index does not go so far"))?;
        let mut row: Vec<Hash> = hashes.as_chunks().0.to_vec();
        while row.len() > 1 {
            row = row
                .chunks_exact(2)
                .map(|pair| node_hash(&pair[0], &pair[1]))
                .collect();
        }
        Ok(row[0])
    }
}
