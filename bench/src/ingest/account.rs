//! What the metadata log says was written, merged and deleted: each command as `ottla metalog dump --json` shows it.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

/// Objects and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub objects: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub entries: u64,
    pub uploaded: Sum,
    /// Made by compaction.
    pub merged: Sum,
    /// What that was made of; an object counts once for each swap that took something of it.
    pub merged_sources: u64,
    /// Confirmed by the store.
    pub deleted_objects: u64,
}

impl Account {
    pub fn of(dump: &str) -> anyhow::Result<Account> {
        let mut account = Account::default();
        for line in dump.lines() {
            let line: Value = serde_json::from_str(line).context("a line of the dump")?;
            match line["kind"].as_str() {
                Some("entry") => {
                    // What retention of the log has deleted would be missing here.
                    ensure!(
                        account.entries > 0 || line["number"] == 1,
                        "the log begins at {}",
                        line["number"]
                    );
                    account.entries += 1;
                }
                Some("command") => account.add(line["command"].as_str().context("a command is text")?)?,
                _ => {}
            }
        }
        Ok(account)
    }

    fn add(&mut self, command: &str) -> anyhow::Result<()> {
        let name = command.split([' ', '(']).next().unwrap_or_default();
        match name {
            "CommitObjects" | "CommitRecovered" => self.uploaded.add(command)?,
            "ReplaceParts" => {
                self.merged.add(command)?;
                let lists = command.split("sources: [").skip(1);
                self.merged_sources +=
                    lists.map(|list| ids(list.split(']').next().unwrap_or_default())).sum::<u64>();
            }
            "ForgetGarbage" => self.deleted_objects += ids(command),
            _ => {}
        }
        Ok(())
    }

    /// With `ingested` bytes of batches.
    pub fn report(&self, ingested: u64) -> Value {
        let factor = |bytes: u64| bytes as f64 / ingested.max(1) as f64;
        json!({
            "metadata_entries": self.entries,
            "uploaded_objects": self.uploaded.objects,
            "uploaded_bytes": self.uploaded.bytes,
            "merged_objects": self.merged.objects,
            "merged_bytes": self.merged.bytes,
            "merged_sources": self.merged_sources,
            "deleted_objects": self.deleted_objects,
            "upload_amplification": factor(self.uploaded.bytes),
            "compaction_amplification": factor(self.merged.bytes),
        })
    }
}

impl Sum {
    fn add(&mut self, command: &str) -> anyhow::Result<()> {
        for size in command.split("size_bytes: ").skip(1) {
            let digits = size.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
            self.objects += 1;
            self.bytes += digits.parse::<u64>().with_context(|| format!("a size in {command}"))?;
        }
        Ok(())
    }
}

/// How many objects are named.
fn ids(text: &str) -> u64 {
    (text.matches("Data {").count() + text.matches("Slot {").count()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `ottla metalog dump --json` prints them.
    const DUMP: &str = r#"{"kind":"entry","number":1,"commands":3}
{"kind":"command","number":1,"command":"CommitObjects { commit: Commit { owner: Incarnation { broker: 1, epoch: 1 }, objects: [NewObject { id: Data { owner: Incarnation { broker: 1, epoch: 1 }, counter: 0 }, size_bytes: 1000, parts: [StreamPart { stream: StreamId(1), base: 0, end: 5, max_timestamp: 1, bytes: 900 }] }, NewObject { id: Slot { owner: Incarnation { broker: 1, epoch: 1 }, slot: 3 }, size_bytes: 24, parts: [] }], wal_trim: Position(9) } }"}
{"kind":"command","number":1,"command":"ReplaceParts { by: Incarnation { broker: 1, epoch: 1 }, replacements: [Replacement { object: NewObject { id: Data { owner: Incarnation { broker: 1, epoch: 1 }, counter: 7 }, size_bytes: 500, parts: [] }, sources: [Data { owner: Incarnation { broker: 1, epoch: 1 }, counter: 0 }, Slot { owner: Incarnation { broker: 1, epoch: 1 }, slot: 3 }] }] }"}
{"kind":"command","number":1,"command":"ForgetGarbage { by: Incarnation { broker: 1, epoch: 1 }, objects: [Data { owner: Incarnation { broker: 1, epoch: 1 }, counter: 0 }] }"}
{"kind":"end","faults":0}"#;

    #[test]
    fn commits_swaps_and_deletions_are_told_apart() {
        let expected = Account {
            entries: 1,
            uploaded: Sum { objects: 2, bytes: 1024 },
            merged: Sum { objects: 1, bytes: 500 },
            merged_sources: 2,
            deleted_objects: 1,
        };
        assert_eq!(Account::of(DUMP).unwrap(), expected);
    }

    #[test]
    fn a_log_whose_beginning_is_gone_is_no_account() {
        assert!(
            Account::of(&DUMP.replace("\"number\":1,\"commands\"", "\"number\":2,\"commands\"")).is_err()
        );
    }
}
