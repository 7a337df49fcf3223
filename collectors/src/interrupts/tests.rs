//! Tests of the parser and of the comparison between readings.

use super::*;
use proptest::prelude::*;

const X86: &str = "           CPU0       CPU2
  0:         10          0  IR-IO-APIC    2-edge      timer
 36:          5       7000  PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0
NMI:          1          2   Non-maskable interrupts
LOC:        100        200   Local timer interrupts
RES:         30         40   Rescheduling interrupts
CAL:         50         60   Function call interrupts
TLB:         20         21   TLB shootdowns
MCE:          0          0   Machine check exceptions
MCP:          9          9   Machine check polls
ERR:          0
MIS:          0
";

fn busiest(table: &Table) -> Vec<Option<&str>> {
    table.cpus.iter().map(|c| table.busiest(c).map(|n| n.as_ref())).collect()
}

fn read(table: &mut Table, text: &str) {
    parse_interrupts(text.as_bytes(), table).unwrap();
}

#[test]
fn kinds_are_summed() {
    let mut table = Table::default();
    read(&mut table, X86);
    assert_eq!(table.cpus.iter().map(|c| c.cpu).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(table.cpus[0].sums, [196, 15, 100, 30, 50, 20, 0, 1]);
    assert_eq!(table.cpus[1].sums, [7302, 7000, 200, 40, 60, 21, 0, 2]);
    assert_eq!(table.kinds, 0xff);
    let arm = "CPU0\n 11: 7 GICv3 27 Level arch_timer\n 44: 3 GICv3 78 Level eth0\nIPI0: 1 Rescheduling interrupts\n\
               IPI1: 2 Function call interrupts\nErr: 0\n";
    read(&mut table, arm);
    assert_eq!(table.cpus[0].sums, [13, 3, 7, 1, 2, 0, 0, 0]);
    assert_eq!(
        table.kinds & (1 << TLB | 1 << NMI | 1 << MACHINE_CHECK),
        0,
        "kinds that do not exist are absent"
    );
}

#[test]
fn the_busiest_line_is_that_which_rose_most() {
    let mut table = Table::default();
    read(&mut table, X86);
    assert_eq!(busiest(&table), [None, None], "nothing to compare to yet");
    let later = X86.replace("5       7000", "5       7500").replace("LOC:        100", "LOC:        103");
    read(&mut table, &later);
    assert_eq!(busiest(&table), [Some("LOC Local timer interrupts"), Some("36 virtio1-req.0")]);
    read(&mut table, &later);
    assert_eq!(busiest(&table), [None, None], "nothing rose");
    // A count that fell was reset; one that wrapped rose.
    read(
        &mut table,
        &later.replace("7500", "1").replace("LOC:        103        200", "LOC: 4294967295 200"),
    );
    assert_eq!(busiest(&table), [None, None]);
    read(&mut table, &later.replace("LOC:        103        200", "LOC: 8 200"));
    assert_eq!(busiest(&table)[0], Some("LOC Local timer interrupts"));
}

#[test]
fn a_change_of_lines_or_cpus_makes_one_reading_incomparable() {
    let new_line = X86.replace("NMI:", " 37:   900000 1 X 1-edge new\nNMI:");
    let renamed = X86.replace("virtio1-req.0", "other");
    let fewer = X86.replace("MCP:          9          9   Machine check polls\n", "");
    let other_cpus = X86.replace("CPU2", "CPU3");
    let one_cpu = "CPU0\nLOC: 1 Local timer interrupts\n".to_string();
    for changed in [new_line, renamed, fewer, other_cpus, one_cpu] {
        let mut table = Table::default();
        read(&mut table, X86);
        read(&mut table, &changed);
        assert!(busiest(&table).iter().all(Option::is_none), "{changed}");
        let later = changed.replace("LOC:        100", "LOC:        900").replace("LOC: 1", "LOC: 5");
        read(&mut table, &later);
        assert_eq!(busiest(&table)[0], Some("LOC Local timer interrupts"), "{changed}");
    }
}

#[test]
fn handlers_follow_the_trigger() {
    let name = |tail: &str| IrqLine::new(b"9", tail.as_bytes()).name.to_string();
    assert_eq!(name("IO-APIC   9-fasteoi   acpi, i801_smbus"), "9 acpi, i801_smbus");
    assert_eq!(name("GICv3  78 Level     eth0"), "9 eth0");
    assert_eq!(name("IO-APIC   9-fasteoi"), "9 IO-APIC   9-fasteoi");
    assert_eq!(name("whatever it is"), "9 whatever it is");
    assert_eq!(name(""), "9");
    let hostile = IrqLine::new(b"\xff", &[b'x'; 5000]);
    assert!(hostile.name.starts_with("\\xff xxx") && hostile.name.chars().count() <= 120);
}

#[test]
fn surprises_are_errors_with_their_line() {
    let check = |input: &[u8], expected: &str| {
        let mut table = Table::default();
        read(&mut table, X86);
        let e = parse_interrupts(input, &mut table).unwrap_err().at("/p".as_ref()).to_string();
        assert!(e.contains(expected), "{e}");
        assert!(table.lines.is_empty(), "nothing is left to compare to");
    };
    check(b"", "line 1: empty");
    check(b"CPU0 CPU0\n", "line 1: expected CPU0 CPU1 ... ascending, found `CPU0`");
    check(b"CPU0\n", "no line with a count");
    check(b"CPU0\nLOC 1\n", "line 2: expected a label and a colon");
    check(b"CPU0 CPU1\nLOC: 1\n", "line 2: expected a count for each CPU, found the end");
    check(b"CPU0 CPU1\nLOC: 1 Local timer\n", "line 2: expected a count for each CPU, found `Local`");
    check(b"CPU0\nLOC: -1\n", "found `-1`");
    check(b"CPU0\nLOC: 18446744073709551616\n", "found `18446744073709551616`");
    check(b"CPU0\nLOC: 18446744073709551615\nNMI: 1\n", "line 3: expected a sum");
    check(b"CPU0\nLOC: 1", "line 2: cut short");
}

proptest! {
    #[test]
    fn never_panics(first in proptest::collection::vec(any::<u8>(), 0..200), second in "[ 0-9A-Z:\n]{0,200}") {
        let mut table = Table::default();
        let _ = parse_interrupts(&first, &mut table);
        let _ = parse_interrupts(format!("CPU0 CPU1\n{second}").as_bytes(), &mut table);
        let _ = parse_interrupts(format!("CPU0\n{second}").as_bytes(), &mut table);
    }

    #[test]
    fn round_trip(counts in proptest::collection::vec(any::<[u32; 3]>(), 1..20), rises in proptest::collection::vec(0u32..1000, 20)) {
        let text = |rise: bool| {
            let mut file = "CPU0 CPU1 CPU5\n".to_string();
            for (i, row) in counts.iter().enumerate() {
                let more = if rise { rises[i] } else { 0 };
                let [a, b, c] = row.map(|n| n.wrapping_add(more));
                file += &format!("{i:>3}: {a:>10} {b:>10} {c:>10}  IO-APIC  {i}-edge  dev{i}\n");
            }
            file
        };
        let mut table = Table::default();
        read(&mut table, &text(false));
        for (c, cpu) in table.cpus.iter().enumerate() {
            let sum: u64 = counts.iter().map(|row| u64::from(row[c])).sum();
            prop_assert_eq!((cpu.sums[TOTAL], cpu.sums[DEVICE]), (sum, sum));
        }
        read(&mut table, &text(true));
        let most = rises[..counts.len()].iter().copied().max().filter(|m| *m > 0);
        for cpu in &table.cpus {
            prop_assert_eq!(cpu.busiest.map(|(line, rise)| (rises[line], rise)), most.map(|m| (m, m)));
        }
    }
}
