"""A library that turns video files into JPEGs; used by frame stores, search and the demo.

    from video.sample import Job, Settings, run_job
    from video.sampling import Window

    record, jpegs = run_job(Job("clip", Path("clip.mp4"), Window(), Settings(num_frames=30)))

What it promises:

- The n frames are at the even positions `round(linspace(0, N - 1, n))` of the N frames that the file gives
  when it is decoded from start to end. No header is trusted. `Settings.slack` above 0 loosens this for long
  videos.
- A picture is exactly the frame at its position. Frames are identified by their presentation times; after a
  seek, a frame with another time than its packet promised makes the whole video be decoded in order.
- The same file and settings give the same bytes, with any number of workers.
- A picture is what a player shows: upright, in the colours of its tags, HDR (PQ, HLG) mapped to SDR
  (tone_mapping.py), frames marked as interlaced deinterlaced (deinterlacing.py). Of several video streams it
  is the one that players show (streams.py). The record says what was done.
- Times in the record are those of the packets of the stored frames.
- An unreadable file does not affect the others: `run_job` returns a `VideoError`, `WorkerPool` survives
  crashes and hangs.

Limits: the duration and frame rate in the record are those of the header. Interlaced video that is not marked
as such is not deinterlaced. Primaries other than BT.709 are converted only in HDR video. Dolby Vision without
a PQ or HLG base layer (profile 5) has wrong colours. OpenCV, which reads what PyAV cannot, does none of this.
"""
