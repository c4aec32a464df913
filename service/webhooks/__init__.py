"""The webhooks resource: who is told how jobs and batches ended, and the telling."""
