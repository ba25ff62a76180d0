fn main() {
    let mut l = aya::EbpfLoader::new();
    l.override_global("HAS_SET_RETVAL", &1u8, true);
    let obj = std::fs::read(std::env::args().nth(1).unwrap()).unwrap();
    let mut e = l.load(&obj).unwrap();
    for (n, p) in e.programs_mut() {
        let r = match p {
            aya::programs::Program::CgroupSkb(p) => p.load().map(|()| p.info().unwrap()),
            aya::programs::Program::CgroupSockAddr(p) => p.load().map(|()| p.info().unwrap()),
            aya::programs::Program::SockOps(p) => p.load().map(|()| p.info().unwrap()),
            _ => unreachable!(),
        };
        match r {
            Ok(i) => println!(
                "{n}: verified {:?} xlated {:?} load {:?}",
                i.verified_instruction_count(),
                i.size_translated(),
                i.loaded_at()
            ),
            Err(e) => {
                let s = format!("{e:?}");
                let s = s.replace("\\n", "\n");
                println!("{n}: {}", &s[s.len().saturating_sub(3000000)..])
            }
        }
    }
}
