//! What `squeue` and `sacct` print, and the names that lead from there to tasks.

use std::collections::BTreeMap;

use crate::{cluster::TaskState, ranges};

/// Fields for `squeue -O`, each ended by `|`; the reason stands last, since it is free text.
pub(super) const FIELDS: &str = "ArrayJobID:|,ArrayTaskID:|,Name:|,State:|,exit_code:|,NodeList:|,Reason:|";

/// One element of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Number of the array's job.
    pub job: String,
    /// Number within the array.
    pub element: u32,
    pub task: u32,
    pub state: TaskState,
}

/// Name of the array whose element 0 is task `first`.
pub(super) fn name(batch: &str, first: u32) -> String {
    if first == 0 { batch.to_owned() } else { format!("{batch}+{first}") }
}

/// The task of an array's element 0, if the array belongs to the batch.
fn first(batch: &str, name: &str) -> Option<u32> {
    match name.strip_prefix(batch)? {
        "" => Some(0),
        rest => rest.strip_prefix('+')?.parse().ok(),
    }
}

/// The rows of one batch in what `squeue` prints for [`FIELDS`]. What it prints otherwise, of other jobs or of elements
/// that it no longer lists one by one, is passed over.
pub(super) fn listed(text: &str, batch: &str) -> Vec<Row> {
    text.lines().filter_map(|line| row(line, batch)).collect()
}

fn row(line: &str, batch: &str) -> Option<Row> {
    let mut fields = line.splitn(7, '|').map(str::trim);
    let mut next = || fields.next();
    let (job, element, name, state, status, node, reason) =
        (next()?, next()?, next()?, next()?, next()?, next()?, next()?);
    let element: u32 = element.parse().ok()?;
    let reason = reason.trim_end_matches('|');
    Some(Row {
        job: job.to_owned(),
        element,
        task: first(batch, name)?.checked_add(element)?,
        state: state_of(state, status, node, reason),
    })
}

/// The newest state of each task: a later job, with a higher number, is a later attempt.
pub(super) fn states(rows: &[Row]) -> BTreeMap<u32, TaskState> {
    let mut newest: BTreeMap<u32, &Row> = BTreeMap::new();
    for row in rows {
        let number = |r: &Row| r.job.parse::<u64>().unwrap_or(0);
        let entry = newest.entry(row.task).or_insert(row);
        if number(entry) <= number(row) {
            *entry = row;
        }
    }
    newest.into_iter().map(|(task, row)| (task, row.state.clone())).collect()
}

/// `status` is what `wait` gave: the exit code above the low byte, a signal in it.
fn state_of(state: &str, status: &str, node: &str, reason: &str) -> TaskState {
    let reason = if reason == "None" { "" } else { reason };
    match state {
        "COMPLETED" => TaskState::Succeeded,
        "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_FED" | "REQUEUE_HOLD" | "RESV_DEL_HOLD" | "SPECIAL_EXIT" => {
            let why = if reason.is_empty() && state != "PENDING" { state } else { reason };
            TaskState::Pending { why: why.to_owned() }
        }
        "FAILED" => {
            let status: u32 = status.parse().unwrap_or(0);
            let exit = (status.trailing_zeros() >= 7 && status > 0).then_some((status >> 8) as i32);
            TaskState::Failed { exit, why: if exit.is_some() || reason.is_empty() { state } else { reason }.to_owned() }
        }
        "CANCELLED" | "TIMEOUT" | "NODE_FAIL" | "OUT_OF_MEMORY" | "PREEMPTED" | "BOOT_FAIL" | "DEADLINE"
        | "REVOKED" => TaskState::Failed { exit: None, why: state.to_owned() },
        // RUNNING, COMPLETING, SUSPENDED, STOPPED, SIGNALING, STAGE_OUT, RESIZING, and what a later Slurm may add: it
        // has begun, and its end is not known.
        _ => TaskState::Running { node: node.to_owned() },
    }
}

/// Ended tasks in what `sacct -X -n -P -o JobID,JobName,State,ExitCode` prints.
pub(super) fn accounted(text: &str, batch: &str) -> BTreeMap<u32, TaskState> {
    let mut states = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('|').collect();
        let &[id, name, state, exit] = fields.as_slice() else { continue };
        let Some(first) = first(batch, name) else { continue };
        let Some((_, elements)) = id.split_once('_') else { continue };
        // `CANCELLED by 1000`; `3:0` is the exit code and the signal.
        let word = state.split(' ').next().unwrap_or_default();
        let (code, signal) = exit.split_once(':').unwrap_or((exit, "0"));
        let status = code.parse::<u32>().unwrap_or(0) << 8 | signal.parse::<u32>().unwrap_or(0);
        let state = state_of(word, &status.to_string(), "", "");
        if state.is_final() {
            states.extend(numbers(elements).map(|e| (first + e, state.clone())));
        }
    }
    states
}

/// The numbers of `5` or `[1-3,7%2]`.
fn numbers(text: &str) -> impl Iterator<Item = u32> + '_ {
    let text = text.trim_start_matches('[').trim_end_matches(']');
    ranges::read(text.split('%').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(exit: Option<i32>, why: &str) -> TaskState {
        TaskState::Failed { exit, why: why.into() }
    }

    #[test]
    fn numbers_and_names_both_ways() {
        assert_eq!(numbers("[0-2,5,7-8%4]").collect::<Vec<_>>(), [0, 1, 2, 5, 7, 8]);
        assert_eq!(numbers("17").collect::<Vec<_>>(), [17]);
        assert_eq!(numbers("N/A").count(), 0);
        for task in [0, 1000, 4_294_967_000] {
            assert_eq!(first("b-1", &name("b-1", task)), Some(task));
        }
        assert_eq!(first("b", "b-1"), None);
        assert_eq!(first("b", "b+x"), None);
    }

    #[test]
    fn what_squeue_of_22_05_prints() {
        let text = "1|2|tst|COMPLETING|0|n1|None|\n1|1|tst|FAILED|1792|n1|NonZeroExitCode|\n1|0|tst|COMPLETED|0|n1|None|\n\
                    2|10|tst+100|PENDING|0||Resources|\n2|N/A|tst+100|CANCELLED|0||None|\n7|N/A|x|FAILED|1||BadConstraints|\n\
                    3|1|tst-b|RUNNING|0|n1|None|\n4|3|tst|FAILED|9|n1|None|\n5|4|tst|FAILED|0|n1|RaisedSignal:53(Real-time_signal_19)|\n\
                    5|5|tst|PENDING|0||(ReqNodeNotAvail, UnavailableNodes:n1)|\n4|5|tst|CANCELLED|0||None|\n";
        let states = states(&listed(text, "tst"));
        let expected = BTreeMap::from([
            (0, TaskState::Succeeded),
            (1, failed(Some(7), "FAILED")),
            (2, TaskState::Running { node: "n1".into() }),
            (3, failed(None, "FAILED")),
            (4, failed(None, "RaisedSignal:53(Real-time_signal_19)")),
            (5, TaskState::Pending { why: "(ReqNodeNotAvail, UnavailableNodes:n1)".into() }),
            (110, TaskState::Pending { why: "Resources".into() }),
        ]);
        assert_eq!(states, expected);
    }

    #[test]
    fn what_sacct_prints() {
        let text = "12_3|b|FAILED|3:0\n12_4|b|COMPLETED|0:0\n12_[5-6]|b|CANCELLED by 1000|0:0\n12_7|b|RUNNING|0:0\n13|b|COMPLETED|0:0\n\
                    14_1|b+100|TIMEOUT|0:0\nnonsense\n15_1|c|COMPLETED|0:0\n12_8|b|FAILED|0:9\n";
        let expected = BTreeMap::from([
            (3, failed(Some(3), "FAILED")),
            (4, TaskState::Succeeded),
            (5, failed(None, "CANCELLED")),
            (6, failed(None, "CANCELLED")),
            (8, failed(None, "FAILED")),
            (101, failed(None, "TIMEOUT")),
        ]);
        assert_eq!(accounted(text, "b"), expected);
    }
}
