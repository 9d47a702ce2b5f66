//! Thin Python binding of `ngram-copy-core`: converts, releases the GIL, maps errors; no loop of its own.

// pyo3's macros expand to documented items that rustc still reports.
#![allow(missing_docs)]

mod convert;
mod copier;
mod error;
mod hash;
mod repeat_free;
mod sample;
mod ssm;
mod statistics;
mod table;
mod watch;

use pyo3::prelude::*;

#[pymodule]
mod _rust {
    #[pymodule_export]
    use super::copier::{BoundedNgramCopier, NgramCopier, PrefixMachine};
    #[pymodule_export]
    use super::hash::hash_ngrams;
    #[pymodule_export]
    use super::repeat_free::repeat_free;
    #[pymodule_export]
    use super::sample::{
        markov_chain, sample_distinct, sample_integers, sample_markov, sample_uniform, sample_zipf, zipf_counts,
    };
    #[pymodule_export]
    use super::ssm::conv::{causal_conv1d, causal_conv1d_backward, causal_conv1d_update};
    #[pymodule_export]
    use super::ssm::delta::{delta_rule, delta_rule_backward, delta_rule_step};
    #[pymodule_export]
    use super::ssm::linear::{linear_scan, linear_scan_backward, linear_step};
    #[pymodule_export]
    use super::ssm::outer::{outer, outer_backward, outer_step};
    #[pymodule_export]
    use super::ssm::s4d::{s4d_scan, s4d_scan_backward, s4d_state_update};
    #[pymodule_export]
    use super::ssm::selective::{selective_scan, selective_scan_backward, selective_state_update};
    #[pymodule_export]
    use super::statistics::{first_pair, ngram_statistics, repeat_windows};
    #[pymodule_export]
    use super::table::{BoundedNgramTable, NgramTable};
    use super::{Bound, PyAnyMethods, PyModule, PyModuleMethods, PyResult};

    #[pymodule_init]
    fn init(m: &Bound<'_, PyModule>) -> PyResult<()> {
        m.add("__version__", env!("CARGO_PKG_VERSION"))?;
        m.add("StateError", m.py().get_type::<super::error::StateError>())?;
        // The faces in Python say what is public.
        m.delattr("__all__")
    }
}
