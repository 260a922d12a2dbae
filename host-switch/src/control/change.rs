//! The config that runs, and changes of it: all of one, or nothing.
//!
//! Everything that can refuse a change comes first, and touches nothing: the language, the difference, the plan.
//! What comes then is not refused by anybody: the lcores take up the new tables ([`DatapathChange`]), the keeper
//! takes the new policies, and the new config is the one that runs. One change is made at a time; who looks at the
//! switch meanwhile sees the old config with the old tables, or the new one with the new.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use security_domains::{Config, Edit};
use switch_core::ids::ChainId;

use super::policy::Policy;
use super::request::{Applied, ChangeError, ConfigRequest, Options, RunningConfig, Wish};
use crate::datapath::{Changed, DatapathChange};
use crate::plan::{Difference, Plan};

/// Who carries changes out. The calls return when it is done.
pub trait Adopters: Send + Sync {
    /// Has every lcore take up other tables.
    ///
    /// # Errors
    /// If an lcore is gone.
    fn change(&self, change: DatapathChange) -> Result<Changed, String>;
    /// Which of these chains packets are on.
    ///
    /// # Errors
    /// If an lcore is gone.
    fn carried(&self, chains: &[ChainId]) -> Result<Vec<ChainId>, String>;
    /// Judges VMs and processes by other policies.
    ///
    /// # Errors
    /// If the keeper is gone.
    fn judge_by(&self, policies: &[Policy]) -> Result<(), String>;
}

/// What runs.
#[derive(Debug)]
pub struct Running {
    /// One more with each change.
    pub generation: u64,
    /// The config.
    pub config: Config,
    /// Its text.
    pub text: String,
    /// What was planned from it.
    pub plan: Arc<Plan>,
}

/// The one place where the running config is changed.
pub struct Changes {
    /// Held from the first look at what runs to the end of a change.
    applying: Mutex<()>,
    running: RwLock<Running>,
    adopters: Box<dyn Adopters>,
}

impl Changes {
    /// A switch that has started with this config.
    #[must_use]
    pub fn new(mut config: Config, text: String, plan: Arc<Plan>, adopters: Box<dyn Adopters>) -> Self {
        // Whoever reads it stands elsewhere.
        if let Ok(file) = std::path::absolute(&config.file) {
            config.file = file;
        }
        let running = RwLock::new(Running { generation: 1, config, text, plan });
        Self { applying: Mutex::new(()), running, adopters }
    }

    /// What runs; no change is made while somebody looks.
    pub fn running(&self) -> RwLockReadGuard<'_, Running> {
        self.running.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The config that runs, as a text.
    #[must_use]
    pub fn text(&self) -> RunningConfig {
        let running = self.running();
        RunningConfig {
            generation: running.generation,
            file: running.config.file.clone(),
            text: running.text.clone(),
        }
    }

    /// Changes what runs.
    ///
    /// # Errors
    /// Why not. Nothing has changed then, unless somebody does not answer: [`ChangeError::NoAnswer`].
    pub fn apply(&self, wish: &Wish, options: Options) -> Result<Applied, ChangeError> {
        let _one_at_a_time = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let Prepared { text, config, difference, plan, change, generation } = self.prepare(wish, options)?;
        let (Some(plan), Some(change)) = (plan, change) else {
            return Ok(Applied { applied: false, generation, difference, ..Applied::default() });
        };
        let (changed, policies) = {
            let mut running = self.running.write().unwrap_or_else(PoisonError::into_inner);
            let changed = self.adopters.change(change).map_err(ChangeError::NoAnswer)?;
            let policies = plan.policies.clone();
            let generation = running.generation + 1;
            *running = Running { generation, config, text, plan: Arc::new(plan) };
            (changed, policies)
        };
        log::info!("the config has changed, and is of generation {} now", generation + 1);
        self.adopters.judge_by(&policies).map_err(ChangeError::NoAnswer)?;
        for line in &difference.lines {
            log::info!("{line}");
        }
        if changed.overtaken > 0 {
            log::warn!(
                "{} packets were still on their way after {} ms; later ones of their flows may have overtaken them",
                changed.overtaken,
                changed.held_for.as_millis()
            );
        }
        Ok(Applied {
            applied: true,
            generation: generation + 1,
            difference,
            held_us: u64::try_from(changed.held_for.as_micros()).unwrap_or(u64::MAX),
            overtaken: changed.overtaken,
        })
    }

    /// Everything that can refuse a change, without changing anything.
    fn prepare(&self, wish: &Wish, options: Options) -> Result<Prepared, ChangeError> {
        let running = self.running();
        let generation = running.generation;
        if let Some(wanted) = options.generation.filter(|wanted| *wanted != generation) {
            return Err(ChangeError::Generation { running: generation, wanted });
        }
        let Wanted { text, file, called } = wanted(&running, wish, options)?;
        let config = security_domains::parse_text_as(&text, &file, &called).map_err(ChangeError::Findings)?;
        let difference = Difference::between(&running.config, &config);
        let mut prepared = Prepared { text, config, difference, plan: None, change: None, generation };
        if prepared.difference.needs_restart() {
            if options.dry_run {
                return Ok(prepared);
            }
            if !cfg!(feature = "sabotage-refused-change") {
                return Err(ChangeError::Restart(prepared.difference));
            }
        }
        let carried = match running.plan.unentered().as_slice() {
            [] => Vec::new(),
            chains => self.adopters.carried(chains).map_err(ChangeError::NoAnswer)?,
        };
        let plan = running.plan.next(&prepared.config, &carried);
        let plan = plan.map_err(|error| ChangeError::Plan(error.to_string()))?;
        if !options.dry_run {
            prepared.change = Some(running.plan.change_to(&plan));
            prepared.plan = Some(plan);
        }
        Ok(prepared)
    }
}

/// A change that nothing refuses any more.
struct Prepared {
    text: String,
    config: Config,
    difference: Difference,
    /// None: only to be looked at.
    plan: Option<Plan>,
    change: Option<DatapathChange>,
    /// Of what runs before.
    generation: u64,
}

/// The text that is wanted, where its paths count from, and what findings call it.
struct Wanted {
    text: String,
    file: PathBuf,
    called: String,
}

fn wanted(running: &Running, wish: &Wish, options: Options) -> Result<Wanted, ChangeError> {
    let (kind, edit) = match wish {
        Wish::Config(ConfigRequest { file, text }) => {
            if !file.is_absolute() {
                let file = file.display();
                return Err(ChangeError::Request(format!("file must be an absolute path, got {file}")));
            }
            let called = file.display().to_string();
            return Ok(Wanted { text: text.clone(), file: file.clone(), called });
        }
        Wish::Add { kind, object } => (*kind, Edit::Add { object, at: options.at }),
        Wish::Replace { kind, name, object } => (*kind, Edit::Replace { name, object }),
        Wish::Remove { kind, name } => (*kind, Edit::Remove { name }),
    };
    let text = security_domains::edit(&running.text, kind, edit).map_err(ChangeError::Edit)?;
    Ok(Wanted { text, file: running.config.file.clone(), called: EDITED.to_owned() })
}

/// What findings call a text that is in no file.
const EDITED: &str = "the running config with this change";

#[cfg(test)]
mod tests;
