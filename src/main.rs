use std::process::ExitCode;

fn main() -> ExitCode {
    dq_gpu::cli::run()
}
