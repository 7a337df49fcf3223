//! How far each collector's pass is above bare `pread` of its files, measured in turns, so that other load on the machine
//! meets both alike; the budget is 1.3. Prints, for the fast tenth and the middle of the passes, microseconds and ratio.

use std::time::Instant;

mod common;

#[allow(clippy::print_stdout, reason = "a benchmark's result")]
fn main() {
    // `cargo test --all-targets` runs benches too, without this argument: then a few rounds show that it works.
    let rounds = if std::env::args().any(|a| a == "--bench") { 3000 } else { 10 };
    let mut subjects = common::subjects();
    let mut buf = vec![0; 64 << 10];
    let mut times: Vec<_> = subjects.iter().map(|s| (s.name, Vec::new(), Vec::new())).collect();
    let mut all = ("all", Vec::new(), Vec::new());
    for _ in 0..rounds {
        let start = Instant::now();
        for (subject, (_, bare, _)) in subjects.iter().zip(&mut times) {
            let start = Instant::now();
            std::hint::black_box(common::bare(&subject.files, &mut buf));
            bare.push(start.elapsed().as_nanos());
        }
        all.1.push(start.elapsed().as_nanos());
        let start = Instant::now();
        let mut pass = common::pass();
        for (subject, (_, _, passes)) in subjects.iter_mut().zip(&mut times) {
            let start = Instant::now();
            let _ = subject.polled.collect(&mut pass);
            passes.push(start.elapsed().as_nanos());
        }
        drop(pass);
        all.2.push(start.elapsed().as_nanos());
    }
    for (name, bare, passes) in times.iter_mut().chain([&mut all]) {
        bare.sort_unstable();
        passes.sort_unstable();
        print!("{name:12}");
        for (label, at) in [("p10", rounds / 10), ("p50", rounds / 2)] {
            let (bare, pass) = (bare[at] as f64 / 1e3, passes[at] as f64 / 1e3);
            print!("  {label} {bare:8.2} {pass:8.2} µs = {:.2}", pass / bare);
        }
        println!();
    }
}
