"""Where every artifact lies below the project's home folder. No other module spells a path."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path


@dataclass(frozen=True)
class ArtifactPaths:
    """Folders and files below `home`; nothing is created until something is written."""

    home: Path

    @property
    def operations_db(self) -> Path:
        """SQLite file of the operational database (embedded environment)."""
        return self.home / "operations.db"

    @property
    def mlflow_db(self) -> Path:
        """SQLite file of the MLflow tracking store (embedded environment)."""
        return self.home / "mlflow" / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        """Root of MLflow's artifacts (embedded environment)."""
        return self.home / "mlflow" / "artifacts"

    @property
    def executions(self) -> Path:
        """Immutable parquet parts of test executions: `event_date=YYYY-MM-DD/part-<sha>.parquet`."""
        return self.home / "executions"

    def experiences(self, agent: str) -> Path:
        """Immutable parquet parts of one agent's experiences, by event date."""
        return self.home / "experiences" / agent / "decisions"

    def labels(self, agent: str) -> Path:
        """Immutable parquet parts of one agent's labels, by the date the label became known."""
        return self.home / "experiences" / agent / "labels"

    def requirement_texts(self, agent: str) -> Path:
        """Immutable parquet parts of the requirement texts that one agent's decisions refer to."""
        return self.home / "experiences" / agent / "requirements"

    def snapshots(self, agent: str) -> Path:
        """Published snapshots of one agent: one folder a data hash."""
        return self.home / "experiences" / agent / "snapshots"

    @property
    def data_versions(self) -> Path:
        """The DVC repository (no SCM) whose tracked folders are the snapshots."""
        return self.home / "experiences"

    @property
    def data_remote(self) -> Path:
        """Default DVC remote."""
        return self.home / "dvc-remote"

    def validation(self, agent: str, data_hash: str) -> Path:
        """Great Expectations result and data docs of one snapshot."""
        return self.home / "validation" / agent / data_hash

    @property
    def features(self) -> Path:
        """Feast: source parquet, SQL registry, online store."""
        return self.home / "features"

    def training_sets(self, agent: str) -> Path:
        """Point-in-time training sets of one agent: one folder a training-set hash."""
        return self.home / "training_sets" / agent

    def models(self, agent: str) -> Path:
        """Trained models of one agent: one folder an MLflow run id."""
        return self.home / "models" / agent

    def reports(self, agent: str) -> Path:
        """Validation reports (JSON, HTML) and model cards of one agent: one folder an MLflow run id."""
        return self.home / "reports" / agent

    def experiments(self, name: str) -> Path:
        """Reports of one experiment; its name is a user's, so the folder is a digest of it."""
        return self.home / "experiments" / sha256(name.encode()).hexdigest()[:16]

    def monitoring(self, subject: str) -> Path:
        """Monitoring reports of one agent, or of the platform: one folder for each day on which a window ends."""
        return self.home / "monitoring" / subject

    @property
    def prediction_journal(self) -> Path:
        """Answers on their way to the operational database: one folder a server process."""
        return self.home / "serving" / "journal"

    @property
    def served_models(self) -> Path:
        """Local copy of the versions in service, by registered model and MLflow's version number."""
        return self.home / "serving" / "models"

    @property
    def pseudonym_key(self) -> Path:
        """Key of the user pseudonyms where no setting gives one (embedded environment)."""
        return self.home / "serving" / "pseudonym.key"

    def batch_predictions(self, agent: str) -> Path:
        """Decisions of batch scoring: one folder for each input and model version."""
        return self.home / "batch_predictions" / agent
