//! Times must not tell where a tag or a commitment differs, nor what was wrong with a message: after
//! dudect (Reparaz, Balasch and Verbauwhede, "Dude, is my code constant time?", 2017).
//!
//! Statistics on a shared machine: `make sweep` runs them on a release build, `cargo test` doesn't.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Instant;

use strongroom_core::engine::Engine;
use strongroom_core::kc_xaes::BoxKey;
use strongroom_core::stream::StreamKey;

/// Welch's t above which two classes differ; 4.5 is usual, but not on a virtual machine.
const T_MAX: f64 = 10.0;
const MEASUREMENTS: usize = 1_000_000;

/// Numbers without a pattern (xorshift64*), to choose the class of each measurement.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let mut seed = [0; 8];
        strongroom_core::random::fill(&mut seed).unwrap();
        println!("seed {seed:02x?}");
        Self(u64::from_le_bytes(seed) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

/// Welch's t of the times of `work` on two classes of inputs, in an order without a pattern. Times
/// above the 90th percentile are interrupts and neighbours, and are left out.
fn t(measurements: usize, mut work: impl FnMut(usize)) -> f64 {
    let mut random = Random::new();
    for class in 0..1000 {
        work(class % 2);
    }
    let times: Vec<(usize, f64)> = (0..measurements)
        .map(|_| {
            let class = (random.next() >> 60) as usize % 2;
            let start = Instant::now();
            work(class);
            (class, start.elapsed().as_nanos() as f64)
        })
        .collect();
    let mut sorted: Vec<f64> = times.iter().map(|(_, time)| *time).collect();
    sorted.sort_by(f64::total_cmp);
    let limit = sorted[measurements * 9 / 10];
    let [a, b] = [0, 1].map(|wanted| {
        let kept = || {
            times
                .iter()
                .filter(|(class, time)| *class == wanted && *time <= limit)
                .map(|(_, time)| time)
        };
        let count = kept().count() as f64;
        let mean = kept().sum::<f64>() / count;
        let variance = kept().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    });
    (a.0 - b.0).abs() / (a.1 + b.1).sqrt()
}

/// In 3 of 3 runs.
fn is_constant(what: &str, measurements: usize, mut work: impl FnMut(usize)) {
    for _ in 0..3 {
        let t = t(measurements, &mut work);
        println!("{what}: t = {t:.1}");
        assert!(t < T_MAX, "{what}: t = {t:.1}");
    }
}

fn flipped<const N: usize>(bytes: &[u8; N], at: usize) -> [u8; N] {
    let mut copy = *bytes;
    copy[at] ^= 1;
    copy
}

#[test]
#[ignore = "statistics: make sweep"]
fn a_naive_comparison_is_found() {
    let (right, claimed) = ([7; 32], [0, 31].map(|at| flipped(&[7; 32], at)));
    let t = t(MEASUREMENTS, |class| {
        for _ in 0..4 {
            let (a, b): (&[u8; 32], &[u8; 32]) = (black_box(&right), black_box(&claimed[class]));
            black_box((0..32).all(|i| black_box(a[i]) == b[i]));
        }
    });
    println!("naive: t = {t:.1}");
    assert!(t > 100.0, "{t}");
}

#[test]
#[ignore = "statistics: make sweep"]
fn the_place_of_a_difference_is_not_told() {
    let key = BoxKey::new(&[7; 32]);
    for engine in Engine::ALL {
        let mut sealed = [0; 64 + 48];
        key.seal(engine, &[1; 24], b"", &[2; 64], &mut sealed);
        let mut out = [0; 64];
        for (what, start, len) in [("commitment", 80, 32), ("tag", 64, 16)] {
            let claimed = [start, start + len - 1].map(|at| flipped(&sealed, at));
            is_constant(
                &format!("{what} of a box, {}", engine.name()),
                MEASUREMENTS,
                |class| {
                    let opened = key.open(engine, &[1; 24], b"", &claimed[class], &mut out);
                    assert!(black_box(opened).is_err());
                },
            );
        }
        let (_, prefix) = StreamKey::create(engine, &[7; 32], &[]).unwrap();
        let claimed = [0, 31].map(|at| {
            let mut copy = prefix;
            copy.commitment[at] ^= 1;
            copy
        });
        is_constant(
            &format!("commitment of a stream, {}", engine.name()),
            MEASUREMENTS / 10,
            |class| {
                let opened = StreamKey::open(engine, &[7; 32], &claimed[class], &[]);
                assert!(black_box(opened).is_err());
            },
        );
    }
}

/// The cause is one: the tag does not fit. Whether it, the ciphertext or the associated data was
/// changed is not told by the time that it takes.
#[test]
#[ignore = "statistics: make sweep"]
fn what_was_changed_is_not_told() {
    let key = BoxKey::new(&[7; 32]);
    let mut random = Random::new();
    for engine in Engine::ALL {
        for len in [64, 1024, 16_384] {
            let mut sealed = vec![0; len + 48];
            key.seal(engine, &[1; 24], b"data", &vec![2; len], &mut sealed);
            let mut messages = vec![sealed; 4];
            messages[0][0] ^= 1;
            messages[1][len - 1] ^= 1;
            messages[2][len] ^= 1;
            let mut out = vec![0; len];
            let mut times = vec![Vec::new(); messages.len()];
            for _ in 0..40_000 {
                let case = (random.next() >> 32) as usize % messages.len();
                let associated_data: &[u8] = if case == 3 { b"Data" } else { b"data" };
                let start = Instant::now();
                let opened = key.open(engine, &[1; 24], associated_data, &messages[case], &mut out);
                times[case].push(start.elapsed().as_nanos());
                assert!(black_box(opened).is_err());
            }
            let medians: Vec<u128> = times
                .iter_mut()
                .map(|times| {
                    times.sort_unstable();
                    times[times.len() / 2]
                })
                .collect();
            println!("{} of {len} bytes: {medians:?} ns", engine.name());
            let (least, most) = (medians.iter().min(), medians.iter().max());
            assert!(
                *most.unwrap() as f64 <= 1.05 * *least.unwrap() as f64,
                "{medians:?}"
            );
        }
    }
}
