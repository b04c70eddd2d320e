// protox compiles the contract, so that no protoc is needed.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../protos");
    let files = protox::compile(["sandbox/v1/sandbox.proto"], ["../../protos"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(files)?;
    Ok(())
}
