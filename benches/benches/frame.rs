//! Frames: forming one, checking one, and the checksum below both.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use outlast_benches::{begun, fields};
use outlast_engine::format::{Chain, FrameKind, FrameRun};

const PAYLOADS: [usize; 3] = [128, 4096, 256 << 10];

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame/encode");
    for payload_len in PAYLOADS {
        group.throughput(Throughput::Bytes(payload_len as u64));
        let (chain, payload) = (begun().0, vec![0xab; payload_len]);
        group.bench_function(BenchmarkId::from_parameter(payload_len), |bencher| {
            bencher.iter(|| form(&mut chain.clone(), black_box(&payload)));
        });
    }
    group.finish();
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame/decode");
    for payload_len in PAYLOADS {
        group.throughput(Throughput::Bytes(payload_len as u64));
        let chain = begun().0;
        let frame = form(&mut chain.clone(), &vec![0xab; payload_len]);
        group.bench_function(BenchmarkId::from_parameter(payload_len), |bencher| {
            bencher.iter(|| chain.check_frame(black_box(&frame)).expect("a whole frame"));
        });
    }
    group.finish();
}

/// What a standby does with what arrives: 1 MiB of frames in one piece.
fn run(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame/run of 1 MiB");
    for payload_len in [128, 4096] {
        let start = begun().0;
        let mut chain = start;
        let mut bytes = Vec::new();
        while bytes.len() < 1 << 20 {
            bytes.extend_from_slice(&form(&mut chain, &vec![0xab; payload_len]));
        }
        let bytes = Bytes::from(bytes);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(payload_len), |bencher| {
            bencher.iter(|| FrameRun::check(&start, bytes.clone()).expect("whole frames"));
        });
    }
    group.finish();
}

fn checksum(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for len in PAYLOADS {
        let bytes = vec![0xab; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            bencher.iter(|| crc32fast::hash(black_box(&bytes)));
        });
    }
    group.finish();
}

fn form(chain: &mut Chain, payload: &[u8]) -> Bytes {
    let fields = fields(chain, FrameKind::Batches, 1);
    chain.form(fields, [payload])
}

fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(700))
}

criterion_group! { name = benches; config = short(); targets = encode, decode, run, checksum }
criterion_main!(benches);
