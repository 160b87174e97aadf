//! Generations as clients see them: what the core knows of each, beside what its store has.

use super::rfc3339;
use crate::api::openapi;
use crate::generations::Kept;
use hale_core::ids::{GenerationId, Name};
use hale_core::reason::Reason;
use hale_core::safeswitch::{Bad, Generations, Grade, Part, Stage};
use hale_core::status::{GenerationsReport, SwitchStatus};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};
use utoipa::ToSchema;

/// `hale generations SERVICE --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceGenerations {
    /// Whose.
    #[schema(schema_with = openapi::name)]
    pub service: Name,
    /// Where they are kept: `release`, `nix-profile` or `command`; `null`: the service has none.
    pub store: Option<String>,
    /// The switch that is under way.
    pub switch: Option<Switch>,
    /// Those that its store has, the newest first, then those that it has no longer and Hale still knows of, then those of its
    /// files.
    pub generations: Vec<Generation>,
}

/// A switch that is under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Switch {
    /// Of which part.
    #[schema(schema_with = openapi::part)]
    pub part: Part,
    /// To what.
    #[schema(value_type = String)]
    pub to: GenerationId,
    /// What was switched to before.
    #[schema(value_type = Option<String>)]
    pub from: Option<GenerationId>,
    /// How far it is: `intended`, `prepared`, `switching`, `probation`, `committing`, `going_back` or `validating`.
    pub stage: String,
    /// Whether the newest process is of what is switched to now. Where it is not, a probation begins with the next one.
    pub runs: bool,
}

/// One generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Generation {
    /// What names it.
    #[schema(value_type = String)]
    pub id: GenerationId,
    /// Of what the service runs (`store`), or of the files that belong to it (`files`).
    #[schema(schema_with = openapi::part)]
    pub part: Part,
    /// Whether the service is switched to it: its next process runs it.
    pub current: bool,
    /// Whether its process runs it.
    pub runs: bool,
    /// Whether it has to prove itself now.
    pub on_probation: bool,
    /// How well it is known to be good: `assumed`, `provisional` or `proven`; `null`: it is not.
    pub grade: Option<String>,
    /// Since when it is known to be good; where it is not, since when it is the current one.
    pub since: Option<String>,
    /// Whether its store has it; `null`: it was not asked.
    pub kept: Option<bool>,
    /// When it came, as its store says.
    pub imported: Option<String>,
    /// Why it is not switched to by itself again.
    pub quarantined: Option<Quarantine>,
    /// Whether it is what its id says, as its last reading has found, in the background too; `null`: it was not read since the
    /// supervisor's start.
    pub verified: Option<bool>,
    /// When it was read.
    #[serde(default)]
    pub verified_at: Option<String>,
    /// What is wrong with it, where it is not.
    pub fault: Option<String>,
}

/// Why a generation is not switched to by itself again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Quarantine {
    /// Why it was taken back.
    pub why: String,
    /// In which incident: its evidence.
    pub incident: Option<u64>,
    /// Since when.
    pub since: String,
    /// Until when.
    pub until: String,
    /// Whether that is for what it was found to be when it was needed, and not for how it ran: then it can be repaired.
    #[serde(default)]
    pub damaged: bool,
}

/// One line of `hale quarantine list --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Quarantined {
    /// Whose.
    #[schema(schema_with = openapi::name)]
    pub service: Name,
    /// Which.
    #[schema(value_type = String)]
    pub generation: GenerationId,
    /// Of which part.
    #[schema(schema_with = openapi::part)]
    pub part: Part,
    /// Why, and for how long.
    #[serde(flatten)]
    pub quarantine: Quarantine,
}

/// An archive that is a release now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Arrived {
    /// What names it.
    #[schema(value_type = String)]
    pub generation: GenerationId,
    /// Whether it was not there.
    #[serde(rename = "new")]
    pub is_new: bool,
}

impl From<SwitchStatus> for Switch {
    fn from(switch: SwitchStatus) -> Self {
        let SwitchStatus { part, to, from, stage, runs, probation_left: _ } = switch;
        Self { part, to, from, stage: stage.into_owned(), runs }
    }
}

impl From<&Bad> for Quarantine {
    fn from(bad: &Bad) -> Self {
        Self {
            why: bad.why.to_string(),
            incident: bad.seen_in.map(|id| id.0),
            since: rfc3339(bad.since_wall_us),
            until: rfc3339(bad.until_wall_us),
            damaged: matches!(bad.why, Reason::NotSwitched { .. }),
        }
    }
}

impl Generation {
    /// It was read, and this is wrong with it.
    pub(in crate::api) fn set_read(&mut self, at: SystemTime, fault: Option<String>) {
        self.verified = Some(fault.is_none());
        self.verified_at = Some(rfc3339(wall_us(at)));
        self.fault = fault;
    }

    /// Its store does not have it any more.
    pub(in crate::api) fn set_gone(&mut self) {
        (self.kept, self.verified, self.verified_at, self.fault) = (Some(false), None, None, None);
    }
}

impl ServiceGenerations {
    /// What the core knows beside what the store has.
    #[must_use]
    pub fn new(report: &GenerationsReport, kept: &[Kept]) -> Self {
        let mut generations: Vec<Generation> = Vec::new();
        for part in Part::ALL {
            // The core asks for the files itself, and nobody else does.
            let kept = if part == Part::Store { kept } else { &[] };
            let mut seen: BTreeSet<&GenerationId> = kept.iter().map(|kept| &kept.id).collect();
            generations.extend(kept.iter().map(|kept| generation(report, part, &kept.id, Some(kept))));
            let known = of_interest(report, part).filter(|id| seen.insert(id));
            generations.extend(known.map(|id| generation(report, part, id, None)));
        }
        let switch = Part::ALL.into_iter().find_map(|part| Some((part, report.known[part].switch.as_ref()?)));
        Self {
            service: report.service.clone(),
            store: report.store.as_ref().map(|store| store.as_str().to_owned()),
            switch: switch.map(|(part, switch)| Switch {
                part,
                to: switch.intent.to.clone(),
                from: switch.intent.from.clone(),
                stage: switch.stage.as_str().to_owned(),
                runs: report.runs[part] == report.known[part].current,
            }),
            generations,
        }
    }
}

/// All that the core knows something of.
fn of_interest(report: &GenerationsReport, part: Part) -> impl Iterator<Item = &GenerationId> {
    let Generations { current, goods, bads, switch, .. } = &report.known[part];
    let of_switch = switch.as_ref().map(|switch| &switch.intent.to);
    let bads = bads.iter().filter(|bad| bad.until_wall_us > report.at.wall_us).map(|bad| &bad.id);
    let goods = goods.iter().map(|good| &good.id);
    current.iter().chain(&report.runs[part]).chain(of_switch).chain(goods).chain(bads)
}

fn generation(report: &GenerationsReport, part: Part, id: &GenerationId, kept: Option<&Kept>) -> Generation {
    let known = &report.known[part];
    let is_current = known.current.as_ref() == Some(id);
    let good = known.good(id);
    let since = good.map(|good| good.since_wall_us).or(is_current.then_some(known.changed_wall_us));
    let switch = known.switch.as_ref().filter(|switch| switch.intent.to == *id);
    let mut generation = Generation {
        id: id.clone(),
        part,
        current: is_current,
        runs: report.lives && report.runs[part].as_ref() == Some(id),
        on_probation: switch.is_some_and(|switch| matches!(switch.stage, Stage::Probation { .. })),
        grade: good.map(|good| grade(good.grade)),
        since: since.map(rfc3339),
        kept: (part == Part::Store).then_some(kept.is_some()),
        imported: kept.and_then(|kept| kept.came).map(|came| rfc3339(wall_us(came))),
        quarantined: known.bad(id, report.at.wall_us).map(Quarantine::from),
        verified: None,
        verified_at: None,
        fault: None,
    };
    if let Some(read) = kept.and_then(|kept| kept.read.as_ref()) {
        generation.set_read(read.at_wall, read.fault.clone());
    }
    generation
}

/// The generations of one service that are quarantined, oldest first.
pub(in crate::api) fn quarantined(report: &GenerationsReport) -> impl Iterator<Item = Quarantined> + '_ {
    let of = move |part: Part| {
        let bads = report.known[part].bads.iter().filter(|bad| bad.until_wall_us > report.at.wall_us);
        bads.map(move |bad| Quarantined {
            service: report.service.clone(),
            generation: bad.id.clone(),
            part,
            quarantine: Quarantine::from(bad),
        })
    };
    Part::ALL.into_iter().flat_map(of)
}

pub(super) fn grade(grade: Grade) -> String {
    grade.as_str().to_owned()
}

fn wall_us(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generations::LastRead;
    use hale_core::ids::{IncidentId, RecordId};
    use hale_core::policy::StoreKind;
    use hale_core::record::Actor;
    use hale_core::safeswitch::{Aim, Data, Good, Held, Intent, Parts, Switch as CoreSwitch};
    use hale_core::time::Now;
    use serde_json::json;
    use std::time::{Duration, Instant};

    fn id(text: &str) -> GenerationId {
        GenerationId::try_from(text).unwrap()
    }

    fn report() -> GenerationsReport {
        let actor = Actor { uid: 0, pid: 1, user: None };
        let intent = Intent {
            aim: Aim::Deploy { actor },
            from: Some(id("old")),
            to: id("new"),
            back: Some(id("old")),
            failed_before: BTreeSet::new(),
            data_at_least: 0,
            boot_id: String::new(),
        };
        let bad = |name: &str, until_wall_us| Bad {
            id: id(name),
            why: Reason::FailsOnProbation,
            seen_in: Some(IncidentId(7)),
            since_wall_us: 1_000_000,
            until_wall_us,
        };
        let known = Generations {
            current: Some(id("new")),
            is_known: true,
            changed_wall_us: 2_000_000,
            goods: vec![Good { id: id("old"), grade: Grade::Proven, since_wall_us: 0 }],
            bads: vec![bad("expired", 3_000_000), bad("bad", 3_000_001)],
            switch: Some(CoreSwitch {
                id: RecordId(9),
                intent,
                stage: Stage::Probation { held: Held::default() },
                data: Data::default(),
                undoes: None,
                undone: None,
            }),
            ..Generations::default()
        };
        GenerationsReport {
            at: Now { wall_us: 3_000_000, ..Now::default() },
            service: Name::try_from("web").unwrap(),
            store: Some(StoreKind::Release),
            runs: Parts { store: Some(id("new")), files: None },
            lives: true,
            known: Parts { store: known, files: Generations { current: Some(id("files")), ..Generations::default() } },
        }
    }

    #[test]
    fn what_has_ended_runs_no_more() {
        let runs = |report| ServiceGenerations::new(&report, &[]).generations.iter().any(|one| one.runs);
        assert!(runs(report()) && !runs(GenerationsReport { lives: false, ..report() }));
    }

    #[test]
    fn what_the_store_has_and_what_is_known_of_it_stand_side_by_side() {
        let came = UNIX_EPOCH + Duration::from_millis(1_500);
        let read =
            |fault: Option<&str>| Some(LastRead { at: Instant::now(), at_wall: came, fault: fault.map(str::to_owned) });
        let kept = [
            Kept { id: id("new"), came: Some(came), read: read(None) },
            Kept { id: id("idle"), came: None, read: read(Some("its end is gone")) },
        ];
        let json = serde_json::to_value(ServiceGenerations::new(&report(), &kept)).unwrap();
        assert_eq!(
            json["switch"],
            json!({"part": "store", "to": "new", "from": "old", "stage": "probation", "runs": true})
        );
        let all: Vec<_> =
            json["generations"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
        assert_eq!(all, ["new", "idle", "old", "bad", "files"]);
        let new = json!({"id": "new", "part": "store", "current": true, "runs": true, "on_probation": true, "grade": null,
            "since": "1970-01-01T00:00:02.000Z", "kept": true, "imported": "1970-01-01T00:00:01.500Z",
            "quarantined": null, "verified": true, "verified_at": "1970-01-01T00:00:01.500Z", "fault": null});
        assert_eq!(json["generations"][0], new);
        let idle = &json["generations"][1];
        assert_eq!((&idle["verified"], &idle["fault"]), (&json!(false), &json!("its end is gone")));
        assert_eq!(json["generations"][2]["grade"], "proven");
        assert_eq!(json["generations"][2]["kept"], false);
        let quarantine = json!({"why": "it fails on probation", "incident": 7, "since": "1970-01-01T00:00:01.000Z",
            "until": "1970-01-01T00:00:03.000Z", "damaged": false});
        assert_eq!(json["generations"][3]["quarantined"], quarantine);
        let files = &json["generations"][4];
        assert_eq!((&files["part"], &files["current"], &files["kept"]), (&json!("files"), &json!(true), &json!(null)));
    }

    #[test]
    fn what_has_expired_is_quarantined_no_longer() {
        let all: Vec<_> = quarantined(&report()).map(|one| one.generation).collect();
        assert_eq!(all, [id("bad")]);
    }
}
