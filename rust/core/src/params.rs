//! Every number of the format and every measured threshold, in one place.
//!
//! Section numbers are those of `FORMAT.md`.

/// Bytes of every key: AES-256, §2.
pub const KEY_LEN: usize = 32;
/// Bytes of a key id, §2.
pub const KEY_ID_LEN: usize = 16;
/// Bytes of an AES-GCM nonce, NIST SP 800-38D §8.2.
pub const GCM_NONCE_LEN: usize = 12;
/// Bytes of an AES-GCM tag. Shorter ones are not used anywhere.
pub const TAG_LEN: usize = 16;
/// Bytes of an AES block.
pub const BLOCK_LEN: usize = 16;

/// Bytes of a box's nonce: XAES-256-GCM's 24.
pub const BOX_NONCE_LEN: usize = 24;
/// Bytes of a box's and a stream's commitment.
pub const COMMITMENT_LEN: usize = 32;
/// What a box adds to its plaintext: nonce, tag, commitment.
pub const BOX_OVERHEAD: usize = BOX_NONCE_LEN + TAG_LEN + COMMITMENT_LEN;
/// A box around a key.
pub const KEY_BOX_LEN: usize = KEY_LEN + BOX_OVERHEAD;

/// The bytes every message begins with: "SR" and the version.
pub const MAGIC: [u8; 3] = [0x53, 0x52, 0x02];
/// Magic and kind.
pub const PREAMBLE_LEN: usize = MAGIC.len() + 1;

/// Kind of a record.
pub const KIND_RECORD: u8 = 0x01;
/// Kind of an envelope.
pub const KIND_ENVELOPE: u8 = 0x02;
/// Kind of a message made by a token.
pub const KIND_TOKEN: u8 = 0x03;
/// Kind of a wrapped key.
pub const KIND_WRAPPED_KEY: u8 = 0x04;

/// Bytes 0 to 19 of a record: preamble and key id.
pub const RECORD_HEADER_LEN: usize = PREAMBLE_LEN + KEY_ID_LEN;
/// What a record adds to its plaintext.
pub const RECORD_OVERHEAD: usize = RECORD_HEADER_LEN + BOX_OVERHEAD;
/// The longest plaintext of a record. AES-GCM's forgery bound grows with the length: 2^-77 for
/// each of this size, 2^-32 for all 2^45 of them.
pub const RECORD_PLAINTEXT_MAX: usize = 1 << 30;
/// Up to this length the everyday API writes a record, above it an envelope.
pub const VERSIONED_RECORD_MAX: usize = 65_536;

/// The longest associated data.
pub const ASSOCIATED_DATA_MAX: usize = 65_535;

/// Preamble and slot count.
pub const ENVELOPE_FIXED_LEN: usize = PREAMBLE_LEN + 1;
/// The most slots of an envelope.
pub const SLOTS_MAX: usize = 16;
/// A slot's kind and length.
pub const SLOT_HEADER_LEN: usize = 1 + 2;
/// The longest body of a slot.
pub const SLOT_BODY_MAX: usize = 4096;
/// The longest envelope header: h of §4.
pub const ENVELOPE_HEADER_MAX: usize =
    ENVELOPE_FIXED_LEN + SLOTS_MAX * (SLOT_HEADER_LEN + SLOT_BODY_MAX);

/// Slot kind: empty.
pub const SLOT_EMPTY: u8 = 0x00;
/// Slot kind: a key of a keyset.
pub const SLOT_KEYSET: u8 = 0x01;
/// Slot kind: a passphrase.
pub const SLOT_PASSPHRASE: u8 = 0x02;
/// Slot kind: a KEK that travels along, wrapped by a master.
pub const SLOT_MASTER: u8 = 0x03;
/// Slot kind kept free for HPKE.
pub const SLOT_PUBLIC_KEY: u8 = 0x04;

/// Body of a keyset slot: key id and box.
pub const SLOT_KEYSET_LEN: usize = KEY_ID_LEN + KEY_BOX_LEN;
/// Memory (4), passes (4), lanes (1), salt (16).
pub const PASSPHRASE_CLEAR_LEN: usize = 4 + 4 + 1 + PASSPHRASE_SALT_LEN;
/// Bytes of an Argon2id salt.
pub const PASSPHRASE_SALT_LEN: usize = 16;
/// Body of a passphrase slot.
pub const SLOT_PASSPHRASE_LEN: usize = PASSPHRASE_CLEAR_LEN + KEY_BOX_LEN;
/// Body of a master slot without its wrapped key: KEK's key id, w, box.
pub const SLOT_MASTER_FIXED_LEN: usize = KEY_ID_LEN + 2 + KEY_BOX_LEN;
/// The most lanes that are read.
pub const ARGON2_LANES_MAX: u32 = 16;
/// The most passes that are read.
pub const ARGON2_PASSES_MAX: u32 = 16;
/// The most memory that is read, in KiB: 1 GiB.
pub const ARGON2_MEMORY_MAX_KIB: u32 = 1 << 20;
/// The sum of memory (KiB) x passes over all passphrase slots of one message.
pub const ARGON2_COST_MAX: u64 = 1 << 22;

/// The longest plaintext of a token's message.
pub const TOKEN_PLAINTEXT_MAX: usize = 65_536;

/// Preamble, mechanism, id of the wrapping key.
pub const WRAPPED_HEADER_LEN: usize = PREAMBLE_LEN + 1 + KEY_ID_LEN;

/// Cobblestone-256's salt.
pub const SALT_LEN: usize = 24;
/// Cobblestone-256's prefix: salt and commitment.
pub const STREAM_PREFIX_LEN: usize = SALT_LEN + COMMITMENT_LEN;
/// Plaintext of a full chunk.
pub const CHUNK_LEN: usize = 16_384;
/// A full chunk as written.
pub const WIRE_CHUNK_LEN: usize = CHUNK_LEN + TAG_LEN;
/// The chunk counter is a 38-bit integer.
pub const CHUNKS_MAX: u64 = 1 << 38;

/// Boxes under one derived key: 56 q^2 / 2^129 = 2^-33 at this q.
pub const BOXES_MAX: u64 = 1 << 45;

// --- Measured thresholds. Each says how it was found; `make bench` shows what moves them.

/// The least work handed to a worker: four chunks. Below it the hand-over costs more than it saves.
pub const PIECE_CHUNKS: usize = 4;
/// Plaintext bytes of a piece.
pub const PIECE_LEN: usize = PIECE_CHUNKS * CHUNK_LEN;
/// Work of fewer bytes stays on the calling thread: waking an idle worker costs 50 to 100 us,
/// which is what one core seals in 512 KiB to 1 MiB.
pub const PARALLEL_MIN: usize = 512 * 1024;
/// Bytes of a huge page, and of the longest piece: in pieces of 64 KiB two threads had 24 of the 31 huge
/// pages of a new output of 64 MiB cleared twice, at 0.2 ms each.
pub const HUGE_PAGE: usize = 2 << 20;
/// The GIL is released for work of at least this many bytes: with two threads at 4 KiB a
/// release costs more than it gives, at 32 KiB it gives more.
pub const DETACH_MIN: usize = 32 * 1024;
/// Records below this length are sealed by `aes-gcm` where the fast engine is `aws-lc`: none. Its key
/// set-up is cheaper (a record of 64 bytes takes 437 ns against 446), but it leaves round keys on
/// 8 KiB of stack, and wiping those costs 110 ns, against 25 for `aws-lc`'s.
pub const SMALL_RECORD_MAX: usize = 0;
/// The same for records of a batch, which has one wiping for many, on x86-64 with VAES and no AVX-512: 50,000
/// packed records of 64 bytes take 9.8 ms against 13.5, of 256 bytes 12.5 against 14.8 (opened 15.4
/// against 16.5); of 384 bytes it makes no difference. With AVX-512 `aws-lc` takes half as long for 256.
pub const SMALL_BATCH_MAX: usize = 320;
/// Nonces of records come from a buffer of this many bytes.
pub const NONCE_BUFFER_LEN: usize = 4096;
/// Chunks that a worker reads, opens and writes of a file at a time: 128 KiB, of which the two
/// buffers stay in the second-level cache.
pub const FILE_PIECE_CHUNKS: usize = 8;
/// Chunks that a worker reads, seals and writes of a long file at a time: 512 KiB. Sealed pieces do not
/// begin where a page does, and the page cache makes folios of all sizes of them, fewer of a long one:
/// 1 GiB onto ext4 took 0.51 s so, 0.56 in pieces of 256 KiB and 0.67 in 128. In 1 MiB it took 0.45, but
/// longer folios are cut from huge pages, and on a virtual machine that gives free ones back to its
/// host it took 0.8 to 2.2 as soon as some had lain free. What is opened makes a folio of each piece:
/// there 256 KiB were too long already.
pub const FILE_LONG_PIECE_CHUNKS: usize = 32;
/// The most threads at work on files, each with two buffers of a piece.
pub const FILE_WORKERS_MAX: usize = 64;
/// The most bytes of such buffers: at a time one thread writes to a file.
pub const FILE_BUFFERS_MAX: usize = 32 << 20;
/// A file of a group up to this length is one worker's, and several are done at once; longer ones
/// are done one after the other by all workers. With few files there are helpers to spare above
/// it, and a file of this length takes a worker 2 ms.
pub const FILE_SHARED_MIN: u64 = 8 << 20;
/// Bytes of a group of files that are synced together: more would fill the page cache with what
/// waits for the disk.
pub const FILE_GROUP_BYTES: u64 = 1 << 30;
/// Bytes of a long file between two syncs while it is written: 1 GiB takes 0.5 s so, where it
/// takes 0.8 with one sync at the end; on a slower disk 1.9, 2.3 and, with posix_fadvise to begin the
/// writing in place of the syncs, 2.4.
pub const FILE_FLUSH_STEP: u64 = 64 << 20;
