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
- An unreadable file does not affect the others: `run_job` returns a `VideoError`, `WorkerPool` survives
  crashes and hangs.

Limits: only the first video stream that is not a cover picture is read. Interlaced video is not deinterlaced,
and HDR is not tone-mapped. The duration and frame rate in the record are those of the header.
"""
