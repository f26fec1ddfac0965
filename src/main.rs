//! The `landbridge` command: everything is in the library.

fn main() -> std::process::ExitCode {
    landbridge::cli::main()
}
