"""What a model of 1.3 billion parameters needs, shared by the tests of memory."""

from seqtex.models.memory import MemoryNeeds

GB = 10**9
WAN_1_3B = MemoryNeeds(
    transformer=5_462_295_680,
    outside_blocks=57_500_000,
    largest_block=180_200_000,
    text=11_361_000_000,
    codec={"float32": 507_570_124, "exact_tiles": 507_570_124, "bfloat16": 253_785_062},
    maps=1_326_000_000,
    encode={"float32": 1_237_000_000, "exact_tiles": 451_000_000, "bfloat16": 1_445_000_000},
    decode={"float32": 1_642_000_000, "exact_tiles": 622_000_000, "bfloat16": 1_630_000_000},
    denoise=1_305_000_000,
    denoise_recast=438_000_000,
)
"""Of wan2.1-t2v-1.3b in bfloat16 at 512 and 1024; a slow test counts them anew."""
