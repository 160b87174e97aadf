//! Whether the kernel's clock is synchronised (adjtimex(2)).

use std::io;

/// Whether something keeps the wall clock right: the kernel's own word, whoever disciplines it.
///
/// # Errors
///
/// Those of adjtimex(2), which a container may be refused.
pub fn is_synchronised() -> io::Result<bool> {
    // SAFETY: `timex` consists of integers, for which zero is a value; `modes` zero changes nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a `timex` of this frame, which the call fills and does not keep.
    let code = unsafe { libc::adjtimex(&raw mut state) };
    if code < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(code != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_answers_and_nothing_is_changed() {
        // Which answer depends on the machine; that two in a row agree shows that asking sets nothing.
        let answers = [super::is_synchronised().ok(), super::is_synchronised().ok()];
        assert_eq!(answers[0], answers[1]);
    }
}
