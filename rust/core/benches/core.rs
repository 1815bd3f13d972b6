//! The core without Python: `cargo bench -p strongroom-core`, as `make bench` runs it.
//!
//! What the Python figures are made of: one AEAD call and its key set-up on each engine, a record,
//! a run of chunks, derivations, nonces. One thread, but for `message`, which uses all.
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use strongroom_core::engine::{Aead, Engine, GcmKey};
use strongroom_core::kc_xaes::BoxKey;
use strongroom_core::params::{CHUNK_LEN, KEY_LEN, RECORD_OVERHEAD, TAG_LEN};
use strongroom_core::stream::{StreamKey, sealed_len};
use strongroom_core::{batch, engine, kdf, parallel, random, record};

const ENGINES: [Engine; 2] = [Engine::AesGcm, Engine::AwsLc];
const KEY: [u8; KEY_LEN] = [7; KEY_LEN];
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

fn key_setup(c: &mut Criterion) {
    let mut group = c.benchmark_group("key set-up and seal");
    for engine in ENGINES {
        for size in [64, 256, KIB] {
            let data = vec![1; size];
            let mut out = vec![0; size];
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new(engine.name(), size), |b| {
                b.iter(|| {
                    let key = GcmKey::new(engine, black_box(&KEY));
                    key.seal(&[0; 12], b"", black_box(&data), &mut out)
                });
            });
        }
    }
}

fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal under a key that is set up");
    for engine in ENGINES {
        let key = GcmKey::new(engine, &KEY);
        for size in [64, KIB, 16 * KIB, 64 * KIB] {
            let data = vec![1; size];
            let mut out = vec![0; size];
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new(engine.name(), size), |b| {
                b.iter(|| key.seal(&[0; 12], b"", black_box(&data), &mut out));
            });
        }
    }
}

fn records(c: &mut Criterion) {
    engine::init().expect("STRONGROOM_ENGINE names an engine");
    let key = BoxKey::new(&KEY);
    let id = kdf::key_id(&KEY);
    let mut group = c.benchmark_group("record");
    for size in [64, 256, KIB, 16 * KIB] {
        let data = vec![1; size];
        let mut sealed = vec![0; size + RECORD_OVERHEAD];
        let mut opened = vec![0; size];
        record::seal(&key, &id, b"", &data, &mut sealed).expect("sizes are right");
        group.throughput(Throughput::Bytes(size as u64));
        let mut out = sealed.clone();
        group.bench_function(BenchmarkId::new("seal", size), |b| {
            b.iter(|| record::seal(&key, &id, b"", black_box(&data), &mut out));
        });
        group.bench_function(BenchmarkId::new("open", size), |b| {
            b.iter(|| record::open(&key, b"", black_box(&sealed), &mut opened));
        });
    }
    let count = 4096;
    let data = vec![1; count * 256];
    let mut out = vec![0; batch::packed_len(count, 256).expect("fits in memory")];
    group.throughput(Throughput::Bytes(data.len() as u64));
    group.bench_function("4096 packed of 256", |b| {
        b.iter(|| {
            batch::seal_packed(&key, &id, 256, b"", black_box(&data), &mut out, &mut |_| {
                Ok(())
            })
        });
    });
}

fn streams(c: &mut Criterion) {
    let mut group = c.benchmark_group("stream");
    for engine in ENGINES {
        let (key, _) = StreamKey::create(engine, &KEY, &[]).expect("the system has randomness");
        let data = vec![1; 4 * CHUNK_LEN];
        let mut out = vec![0; data.len() + 4 * TAG_LEN];
        group.throughput(Throughput::Bytes(data.len() as u64));
        group.bench_function(BenchmarkId::new("run of four chunks", engine.name()), |b| {
            b.iter(|| key.seal_run(0, black_box(&data), &mut out));
        });
    }
    for size in [MIB, 64 * MIB] {
        let data = vec![1; size];
        let len = sealed_len(size as u64).expect("below the limit") as usize;
        let mut out = vec![0; len];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("message", size), |b| {
            b.iter_batched(
                || {
                    StreamKey::create(Engine::for_streams(), &KEY, &[])
                        .expect("the system has randomness")
                        .0
                },
                |key| parallel::seal_message(key, &data, &mut out, None, &mut |_| Ok(())),
                BatchSize::PerIteration,
            );
        });
    }
}

fn small(c: &mut Criterion) {
    let mut group = c.benchmark_group("small");
    group.bench_function("derive", |b| {
        b.iter(|| kdf::derive::<KEY_LEN>(black_box(&KEY), "record"));
    });
    group.bench_function("box key", |b| b.iter(|| BoxKey::new(black_box(&KEY))));
    group.bench_function("nonce", |b| b.iter(random::nonce24));
    group.bench_function("32 bytes from the system", |b| {
        let mut out = [0; KEY_LEN];
        b.iter(|| random::fill(&mut out));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .sample_size(20);
    targets = key_setup, seal, records, streams, small
}
criterion_main!(benches);
