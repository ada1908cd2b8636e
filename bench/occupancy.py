"""How many programs a multiprocessor can hold at a time: the table of CUDA's programming guide."""

from dataclasses import dataclass

LANES = 32
REGISTER_UNIT = 256  # registers are handed out to a warp in units of so many
SHARED_UNIT = 1024  # bytes of shared memory that the system keeps for each program


@dataclass(frozen=True)
class Limits:
    """What one multiprocessor has, sizes in bytes: `storage` is L1 and shared memory together."""

    programs: int
    warps: int
    registers: int
    shared: int
    storage: int


LIMITS = {
    "7.5": Limits(programs=16, warps=32, registers=65536, shared=64 * 1024, storage=96 * 1024),
    "8.0": Limits(programs=32, warps=64, registers=65536, shared=164 * 1024, storage=192 * 1024),
    "8.6": Limits(programs=16, warps=48, registers=65536, shared=100 * 1024, storage=128 * 1024),
    "8.9": Limits(programs=24, warps=48, registers=65536, shared=100 * 1024, storage=128 * 1024),
    "9.0": Limits(programs=32, warps=64, registers=65536, shared=228 * 1024, storage=256 * 1024),
}


def resident(limits: Limits, num_warps: int, registers: int = 0, shared: int = 0) -> dict[str, int]:
    """How many programs each limit allows; the least of them are resident.

    `registers` are those of a thread, `shared` the bytes of shared memory of a program.
    """
    each = -(-registers * LANES // REGISTER_UNIT) * REGISTER_UNIT * num_warps
    return {
        "programs": limits.programs,
        "warps": limits.warps // num_warps,
        "registers": limits.registers // each if each else limits.programs,
        "shared memory": limits.shared // (shared + SHARED_UNIT),
    }
