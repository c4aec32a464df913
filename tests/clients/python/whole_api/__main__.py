"""The whole API with the stock `openai` package of any version, every answer under the SDK's strict validation.

OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_ADMIN_KEY say where and who, as for any script written for OpenAI. What the
installed version has no method for is left out. Argument: a JSONL file of twelve rows.
"""

import sys
from pathlib import Path

import errors
import files
import fine_tuning
import graders
import inference
import models
import openai
import projects
import uploads
import webhooks

rows = Path(sys.argv[1])
file = files.check(rows)
uploads.check(rows)
job = fine_tuning.check(file)
inference.check(job.fine_tuned_model)
graders.check()
webhooks.check(file)
projects.check(job.fine_tuned_model)
models.check(job.fine_tuned_model)
errors.check()
print(f"openai {openai.__version__}: all is well")
