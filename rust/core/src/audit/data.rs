//! A record for each data operation, where that is asked for: made and sealed in batches, far from
//! the calls that they are about.

use std::collections::HashMap;

use super::log::{Durability, Log};
use super::template::{Template, Values};
use crate::error::hex;
use crate::tally::{self, Each, Operation, Outcome};
use crate::{Error, Result};

/// The events of data operations: for each operation and outcome, and whether a key is known.
#[derive(Debug, Default)]
pub struct Templates(HashMap<(&'static str, &'static str, bool), Template>);

impl Templates {
    /// All of them, or as many as `text` gives for an operation, an outcome, and whether there is a
    /// key.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a text that is no template.
    pub fn new(text: impl Fn(&str, &str, bool) -> Option<String>) -> Result<Self> {
        let mut all = HashMap::new();
        for operation in Operation::ALL {
            for outcome in Outcome::ALL {
                for has_key in [false, true] {
                    let (operation, outcome) = (operation.name(), outcome.name());
                    if let Some(text) = text(operation, outcome, has_key) {
                        all.insert((operation, outcome, has_key), Template::new(&text)?);
                    }
                }
            }
        }
        Ok(Self(all))
    }

    fn fill(&self, each: &Each, out: &mut String) -> Result<()> {
        let kind = each.kind;
        let key_id = kind.key.map(|id| hex(&id));
        let place = (kind.operation.name(), kind.outcome.name(), key_id.is_some());
        let template = self
            .0
            .get(&place)
            .ok_or_else(|| Error::Invalid("an operation without an event".into()))?;
        let values = Values {
            bytes: each.bytes,
            count: each.messages,
            key_id: key_id.as_deref().unwrap_or_default(),
            time: each.time,
            ..Values::default()
        };
        template.fill(&values, out);
        Ok(())
    }
}

/// Seals the calls that wait, in pieces that hold the log's lock shortly; returns their events, and how
/// many calls had found no room to wait in.
///
/// # Errors
/// As [`Log::append`], where the first piece can't be sealed. What was not sealed is put back, to be
/// sealed later.
pub fn seal_waiting(log: &mut Log, templates: &Templates) -> Result<(Vec<String>, u64)> {
    let (mut waiting, unrecorded) = tally::drain();
    let mut all = Vec::new();
    for start in (0..waiting.len()).step_by(PIECE) {
        let piece = &waiting[start..waiting.len().min(start + PIECE)];
        match seal(log, templates, piece) {
            Ok(events) => all.extend(events),
            Err(error) => {
                tally::put_back(waiting.split_off(start), unrecorded);
                // What is sealed is told; the next call meets the same error.
                return if start == 0 { Err(error) } else { Ok((all, 0)) };
            }
        }
    }
    Ok((all, unrecorded))
}

fn seal(log: &mut Log, templates: &Templates, each: &[Each]) -> Result<Vec<String>> {
    let events = each
        .iter()
        .map(|each| {
            let mut event = String::with_capacity(640);
            templates.fill(each, &mut event).map(|()| event)
        })
        .collect::<Result<Vec<_>>>()?;
    log.append(&events, Durability::Kernel)?;
    Ok(events)
}

/// Records of one write.
const PIECE: usize = 4096;
