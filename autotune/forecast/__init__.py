"""Peak memory of a step at any batch size, without running it.

A step runs on tensors without data (torch's FakeTensor), while every storage is counted from its birth to its
death; the log of these is replayed through the allocator that would serve it. `records` and `curve` import no
torch and serve the search; the rest runs in a worker, in a child of its own.
"""
